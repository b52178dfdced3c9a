"""The notebook of the documentation runs headless, and prints nothing that its cells do not ask for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_notebook_runs_and_prints_nothing_else(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kinds = [output.output_type for output in cell.outputs]
            shows = isinstance(ast.parse(cell.source).body[-1], ast.Expr)
            assert kinds == (["execute_result"] if shows else []), cell.source
    pages = [o.data for cell in notebook.cells for o in cell.get("outputs", ()) if "text/html" in o.get("data", {})]
    assert len(pages) >= 6
    assert all("<script" not in page["text/html"] and "http" not in page["text/html"][:200] for page in pages)
