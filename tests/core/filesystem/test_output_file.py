"""Output files are checked before the work starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forgather_core.errors import ForgatherError
from forgather_core.filesystem.output_file import check_output_file, write_output_file


def refusal(path: Path) -> str:
    with pytest.raises(ForgatherError) as caught:
        check_output_file(path, "--junit")
    assert caught.value.option == "--junit"
    return caught.value.problem


def test_places_without_a_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(tmp_path) == "is a directory"
    assert refusal(tmp_path / "file" / "x.xml") == f"{tmp_path / 'file'} is a file"
    assert refusal(tmp_path / "none" / "x.xml") == f"the directory {tmp_path / 'none'} does not exist"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt", "modeling_x.py"])
def test_files_of_a_model_are_not_overwritten(tmp_path: Path, name: str) -> None:
    for file in ("config.json", name):
        (tmp_path / file).write_text("{}")
    assert refusal(tmp_path / name) == "is a file of a model directory"


def test_new_files_and_reports_are_allowed_in_a_model_directory(tmp_path: Path) -> None:
    for file in ("config.json", "report.html", "report.xml"):
        (tmp_path / file).write_text("{}")
    for file in ("report.html", "report.xml", "new.json"):
        check_output_file(tmp_path / file, "--output-file")


def test_files_elsewhere_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("old")
    check_output_file(tmp_path / "out.json", "--output-file")
    write_output_file(tmp_path / "out.json", b"new", "--output-file")
    assert (tmp_path / "out.json").read_text() == "new"
    check_output_file(Path("/dev/stdout"), "--output-file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    assert refusal(tmp_path / "x.xml") == "cannot be written: Permission denied"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_error_of_writing_names_the_option_and_the_file() -> None:
    with pytest.raises(ForgatherError) as caught:
        write_output_file(Path("/dev/full"), b"x", "--junit")
    assert (caught.value.option, caught.value.file) == ("--junit", "/dev/full")
    assert "No space left" in caught.value.problem
