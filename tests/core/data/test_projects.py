"""Dataset projects: the built-in one, directories over datasets, and one line for every mistake."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from datasets import Dataset

from forgather_core.data.projects import Corpus, open_corpus
from forgather_core.data.tokenized import tokenized_documents
from forgather_core.errors import DataError
from tests.core.export.test_tokenizer import LOADED

ROWS = {"text": ["one", "two\nlines", "three"], "number": [1, 2, 3]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One dataset in every format."""
    folder = tmp_path / "project"
    folder.mkdir()
    data = Dataset.from_dict(ROWS)
    data.to_json(folder / "rows.jsonl")
    data.to_csv(folder / "rows.csv")
    data.to_parquet(folder / "rows.parquet")
    data.save_to_disk(folder / "saved")
    for number, text in enumerate(ROWS["text"]):
        (folder / f"{number}.txt").write_text(str(text))
    return folder


def configure(project: Path, name: str, text: str) -> None:
    (project / f"{name}.yaml").write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "source: json\nfiles: rows.jsonl",
        "source: csv\nfiles: rows.csv",
        "source: parquet\nfiles: [rows.parquet]",
        "source: text\nfiles: '*.txt'",
        "source: saved",
    ],
)
def test_every_source_gives_its_documents_each_time(project: Path, text: str) -> None:
    configure(project, "default", text)
    corpus = open_corpus(str(project))
    assert list(corpus.texts()) == list(corpus.texts()) == ROWS["text"]
    assert corpus.name == "project/default"


def test_the_standard_library_is_built_in() -> None:
    code = list(islice(open_corpus("stdlib").texts(), 3))
    prose = list(islice(open_corpus("stdlib", "docstrings").texts(), 3))
    assert all(len(text) > 80 for text in code + prose)
    assert "import " in "".join(code)


def test_a_configuration_is_chosen_by_name(project: Path) -> None:
    configure(project, "one", "source: text\nfiles: 0.txt")
    assert open_corpus(str(project)).name == "project/one"  # the only one
    (project / "configs").mkdir()
    configure(project / "configs", "two", "source: text\nfiles: ../1.txt")
    with pytest.raises(DataError, match="several configurations; name one of one, two"):
        open_corpus(str(project))
    assert list(open_corpus(str(project), "two").texts()) == ["two\nlines"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source: text\nfile: x.txt", r"default\.yaml:2:1: file: no such key\. Did you mean 'files'"),
        ("files: x.txt", "needs 'source'"),
        ("source: text", "needs 'files'"),
        ("source: saved\nfiles: x", "takes no 'files'"),
        ("source: text\nfiles: nothing*.txt", r"there is no 'nothing\*\.txt'"),
        ("source: json\nfiles: rows.jsonl\ntext_column: texts", "no column 'texts'. Did you mean 'text'"),
        ("source: json\nfiles: rows.jsonl\ntext_column: number", "'number' holds int, not text"),
        ("source: nobody/nothing", "'nobody/nothing' cannot be loaded"),
        ("a: [", r"default\.yaml:\d+:\d+: "),
        ("- text", "needs 'source'"),
    ],
)
def test_every_mistake_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    configure(project, "default", text)
    with pytest.raises(DataError, match=said) as error:
        list(open_corpus(str(project)).texts())
    assert "\n" not in str(error.value)


def test_projects_and_configurations_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'stdlib'"):
        open_corpus("stdlb")
    with pytest.raises(DataError, match="no YAML configuration"):
        open_corpus(str(tmp_path))
    with pytest.raises(DataError, match=r"no configuration 'doc'.*default, docstrings"):
        open_corpus("stdlib", "doc")


def test_documents_are_closed_cut_and_begin_again() -> None:
    corpus = Corpus("two", lambda: iter(["ab", "c" * 50]))
    tokenizer = LOADED["bytes"]
    found = list(islice(tokenized_documents(corpus, tokenizer, longest=6), 4))
    assert found[0] == [0, *tokenizer("ab", add_special_tokens=False)["input_ids"], 2]
    assert [len(d) for d in found] == [4, 6, 4, 6]
    assert found[:2] == found[2:]
    with pytest.raises(DataError, match="holds no text"):
        next(iter(tokenized_documents(Corpus("none", lambda: iter([])), tokenizer)))
