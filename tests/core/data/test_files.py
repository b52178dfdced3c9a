"""Files and directories of text are datasets without a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from forgather_core.data.describe import describe_dataset, list_datasets
from forgather_core.data.projects import open_corpus
from forgather_core.errors import DataError


def documents(path: Path) -> list[object]:
    return list(open_corpus(str(path)).documents())


def test_each_text_file_is_a_document_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "b.txt").write_text("second\nline\n")
    (tmp_path / "a[1].md").write_text("first")
    (tmp_path / "deep" / "er" / "c.txt").write_text("third")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "image.png").write_bytes(b"no")
    assert documents(tmp_path) == ["first", "second\nline\n", "third"]
    assert documents(tmp_path / "a[1].md") == ["first"]
    assert open_corpus(str(tmp_path)).name == tmp_path.name


@pytest.mark.parametrize("column", ["text", "content", "anything"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".arrow"])
def test_a_column_of_text_is_found(suffix: str, column: str, tmp_path: Path) -> None:
    rows = {"number": [1, 2], column: ["one", "two"]}
    file = tmp_path / f"data{suffix}"
    if suffix.startswith(".json"):
        file.write_text("\n".join(json.dumps({"number": n, column: t}) for n, t in zip(*rows.values(), strict=True)))
    elif suffix == ".parquet":
        datasets.Dataset.from_dict(rows).to_parquet(str(file))
    else:
        datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
        next((tmp_path / "saved").glob("*.arrow")).rename(file)
    assert documents(file) == ["one", "two"]


def test_chats_are_found(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    (tmp_path / "data.jsonl").write_text(json.dumps({"id": "x", "messages": chat}) + "\n")
    (found,) = documents(tmp_path / "data.jsonl")
    assert [(m["role"], m["content"]) for m in found] == [("user", "question"), ("assistant", "answer")]  # type: ignore[attr-defined]


def test_several_columns_of_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps({"title": "a", "body": "b"}))
    with pytest.raises(DataError, match=r"has none of the columns 'text', .* \(columns: title, body\)"):
        documents(tmp_path / "data.jsonl")


def test_files_of_several_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.jsonl").write_text('{"text": "b"}')
    with pytest.raises(DataError, match=r"files of several kinds \(.jsonl, .txt\)"):
        open_corpus(str(tmp_path))


def test_a_directory_without_data_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains neither a YAML configuration nor data"):
        open_corpus(str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(DataError, match="is a file of an unknown kind"):
        open_corpus(str(tmp_path / "model.bin"))
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match="--dataset-config"):
        open_corpus(str(tmp_path), "default")


def test_a_configuration_takes_precedence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("not this")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.txt").write_text("this")
    (tmp_path / "default.yaml").write_text("source: text\nfiles: other/b.txt\n")
    assert documents(tmp_path) == ["this"]


def test_a_file_is_described(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words")
    report = describe_dataset(str(tmp_path / "a.txt"))
    assert report["columns"] == [{"name": "text", "type": "string"}]
    assert report["counted"]["documents"] == 1


def test_data_is_listed(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    (row,) = list_datasets(str(tmp_path))["configurations"]
    assert row == {"project": str(tmp_path), "config": None, "summary": "2 data files"}
