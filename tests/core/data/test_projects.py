"""Dataset projects: the built-in one, directories over datasets, and one line for every mistake."""

from __future__ import annotations

import json
import logging
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.utils
import pytest
from datasets import Dataset, DatasetDict

from forgather_core.data.configuration import read_configuration
from forgather_core.data.projects import open_corpus
from forgather_core.errors import DataError

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
ROWS = {"text": ["one", "two\nlines", "three"], "number": [1, 2, 3], "chat": [CHAT] * 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dataset in every format, and what is broken."""
    folder = tmp_path_factory.mktemp("made")
    data = Dataset.from_dict(ROWS)
    data.to_json(folder / "rows.jsonl")
    data.remove_columns("chat").to_csv(folder / "rows.csv")
    data.to_parquet(folder / "rows.parquet")
    data.save_to_disk(folder / "saved")
    DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(folder / "splits")
    (folder / "files").mkdir()
    data.to_parquet(folder / "files/train.parquet")
    data.select([1]).to_parquet(folder / "files/test.parquet")
    data.select([]).to_parquet(folder / "none.parquet")
    for number, text in enumerate(ROWS["text"]):
        (folder / f"{number}.txt").write_text(str(text))
    (folder / "a[1].txt").write_text("brackets")
    (folder / "nulls.jsonl").write_text('{"text": null}\n{"text": "x"}\n{"text": " "}\n')
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image", "text": None}]}]
    (folder / "parts.jsonl").write_text(json.dumps({"chat": [*parts, {"role": "assistant", "content": []}]}))
    hello = {"role": "user", "content": "Hi"}
    for name, chat in {
        "number": [{"role": "user", "content": 3}],
        "no-role": [hello, {"content": "Yo"}],
        "no-content": [{"role": "user"}, {"role": "assistant"}],
        "texts": ["Hi", "Yo"],
    }.items():
        (folder / f"{name}.jsonl").write_text(json.dumps({"chat": chat}))
    (folder / "nothing").mkdir()
    (folder / "empty.jsonl").write_text("")
    (folder / "bad.jsonl").write_text('{"text": "a"}\n{"text": b\n')
    (folder / "bad.csv").write_text("text,x\na,1\nb,2,3,4\n")
    (folder / "bad.parquet").write_text("no parquet")
    (folder / "latin.txt").write_bytes(b"\xe9t\xe9")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return Path(shutil.copytree(made, tmp_path / "project"))


def configure(project: Path, name: str, text: str) -> None:
    (project / f"{name}.yaml").write_text(text)


def documents(project: Path, text: str) -> list[object]:
    configure(project, "default", text)
    return list(open_corpus(str(project)).documents())


@pytest.mark.parametrize(
    "text",
    [
        "source: json\nfiles: rows.jsonl",
        "source: csv\nfiles: rows.csv",
        "source: parquet\nfiles: [rows.parquet]",
        "source: parquet\nfiles: rows.parquet\nstreaming: false",
        "source: text\nfiles: '[0-9].txt'",
        "source: text\nfiles: ../project/?.txt",
        "source: saved",
        "source: splits",
        "source: splits\nsplit: train",
        "source: files",
        "source: files\nstreaming: false",
    ],
)
def test_every_source_gives_its_documents_each_time(
    project: Path, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(project, "default", text)
    corpus = open_corpus(str(project))
    assert list(corpus.documents()) == list(corpus.texts()) == ROWS["text"]
    assert corpus.name == "project/default"
    assert capfd.readouterr() == ("", "")  # neither bars nor warnings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source: splits\nsplit: test", ["two\nlines"]),
        ("source: files\nsplit: test", ["two\nlines"]),
        ("source: text\nfiles: a[1].txt", ["brackets"]),
        ("source: text\nfiles: [2.txt, 0.txt]", ["three", "one"]),
        ("source: json\nfiles: nulls.jsonl", ["x"]),
        ("source: json\nfiles: rows.jsonl\ntake: 2", ["one", "two\nlines"]),
        ("source: json\nfiles: rows.jsonl\nskip: 1\ntake: 1", ["two\nlines"]),
        ("source: saved\nskip: 2", ["three"]),
        ("source: parquet\nfiles: rows.parquet\nmessages: chat", [CHAT] * 3),
        ("source: json\nfiles: rows.jsonl\nmessages: chat", [CHAT] * 3),
    ],
)
def test_what_is_chosen(project: Path, text: str, expected: list[object]) -> None:
    assert documents(project, text) == expected


def test_a_chat_is_text_too(project: Path) -> None:
    configure(project, "default", "source: saved\nmessages: chat\ntake: 1")
    assert list(open_corpus(str(project)).texts()) == ["Hi\nYo"]
    configure(project, "default", "source: json\nfiles: parts.jsonl\nmessages: chat")
    assert list(open_corpus(str(project)).texts()) == ["Hi"]


@pytest.mark.parametrize("text", ["source: json\nfiles: rows.jsonl", "source: saved"])
def test_a_seed_is_an_order(project: Path, text: str) -> None:
    orders = [documents(project, f"{text}\nshuffle: {seed}") for seed in ("false", "true", 0, 1, 2, 3, 4)]
    assert all(sorted(map(str, order)) == sorted(map(str, ROWS["text"])) for order in orders)
    assert orders[1] == orders[2]
    assert len(set(map(str, orders))) > 2
    assert documents(project, f"{text}\nshuffle: 3") == orders[5]
    if "json" in text:
        first = documents(project, f"{text}\nshuffle: 3\nbuffer: 1")
        assert first == ROWS["text"]  # one row to choose from


def test_columns_have_types(project: Path) -> None:
    for text in ("source: json\nfiles: rows.jsonl", "source: saved"):
        configure(project, "default", text)
        assert open_corpus(str(project)).columns() == {
            "text": "string",
            "number": "int64",
            "chat": "list of {role, content}",
        }


def test_the_libraries_are_silent_only_meanwhile(project: Path) -> None:
    before = [logging.getLogger(name).level for name in ("datasets", "huggingface_hub")]
    with pytest.raises(DataError):
        documents(project, "source: json\nfiles: bad.jsonl")
    documents(project, "source: saved")
    assert [logging.getLogger(name).level for name in ("datasets", "huggingface_hub")] == before
    assert not datasets.are_progress_bars_disabled()
    assert not huggingface_hub.utils.are_progress_bars_disabled()


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
    with pytest.raises(DataError, match="several configurations: choose one of one, two"):
        open_corpus(str(project))
    assert list(open_corpus(str(project), "two").texts()) == ["two\nlines"]


ROW = "source: json\nfiles: rows.jsonl\n"
CHATS = "source: json\nfiles: {}.jsonl\nmessages: chat"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: text\nfile: x.txt", r"default\.yaml:2:1: file: unknown key\. Did you mean 'files'"),
        ("files: x.txt", "requires 'source': set it to text, json"),
        ("- text", "requires 'source'"),
        ("a: [", r"default\.yaml:\d+:\d+: "),
        ("source: {a: 3}", r"yaml:1:1: source: expected text, got {'a': 3}"),
        ("source: text", "yaml:1:1: source: 'text' requires files: add files"),
        ("source: jsn\nfiles: rows.jsonl", r"yaml:1:1: source: there is no 'jsn'\. Did you mean 'json'"),
        ("source: saved\nfiles: x", "yaml:2:1: files: not supported for source 'saved'"),
        ("source: text\nfiles: []", r"yaml:2:1: files: expected a path or a list of paths, got \[\]"),
        ("source: text\nfiles: [[1]]", r"files: expected a path or a list of paths, got \[\[1\]\]"),
        ("source: text\nfiles: nothing*.txt", r"'nothing\*\.txt' matches no file"),
        ("source: text\nfiles: saved", "'saved' matches no file"),
        (ROW + "name: en", "yaml:3:1: name: source 'json' has no configurations"),
        (ROW + "split: [a]", r"yaml:3:1: split: expected text, got \['a'\]"),
        (ROW + "text_column: texts", r"no column 'texts' .columns: text, number, chat.*\. Did you mean 'text'"),
        (ROW + "text_column: number", "text_column: expected text in 'number', got int: use another column"),
        (ROW + "text_column: chat", "expected text in 'chat', got list: for chats use 'messages'"),
        (ROW + "messages: text", "messages: expected lists of {role, content} in 'text', got str"),
        (CHATS.format("number"), "messages: 'chat' of a row: message 1: expected text in 'content', got int: correct"),
        (CHATS.format("no-role"), "'chat' of a row: message 2 has no 'role': correct the data, or use another column"),
        (CHATS.format("no-content"), "'chat' of a row: message 1 has no 'content'"),
        (CHATS.format("texts"), "'chat' of a row: message 1: expected {role, content}, got str"),
        ("source: nothing", "'nothing' cannot be read: "),
        (ROW + "messages: chats", "messages: there is no column 'chats' .*Did you mean 'chat'"),
        (ROW + "messages: chat\ntext_column: text", "yaml:3:1: messages: not supported together with text_column"),
        (ROW + "streaming: 1", "streaming: expected true or false, got 1"),
        (ROW + "shuffle: yesterday", "shuffle: expected true, false or a seed, got 'yesterday'"),
        (ROW + "shuffle: -1", "shuffle: expected true, false or a seed, got -1"),
        (ROW + "take: 0", "take: expected an integer above 0, got 0"),
        (ROW + "take: true", "take: expected an integer above 0, got True"),
        (ROW + "skip: 1.5", "skip: expected an integer of at least 0, got 1.5"),
        (ROW + "skip: 3", "'rows.jsonl' has no rows after the 3 of 'skip'"),
        (ROW + "buffer: 3", "yaml:3:1: buffer requires shuffle"),
        (
            ROW + "shuffle: true\nstreaming: false\nbuffer: 3",
            "yaml:5:1: buffer requires streaming; otherwise all rows",
        ),
        ("source: saved\nstreaming: true", "yaml:2:1: streaming has no effect on a directory of save_to_disk"),
        ("source: saved\nsplit: test", "split: 'saved' has no splits: remove it"),
        ("source: splits\nsplit: tets", r"split: there is no 'tets' \(splits: train, test\)\. Did you mean 'test'\?"),
        ("source: files\nsplit: valid", r"split: there is no 'valid' \(splits: train, test\)"),
        ("source: json\nfiles: empty.jsonl", "'empty.jsonl' has no rows"),
        ("source: parquet\nfiles: none.parquet", "'none.parquet' has no rows"),
        ("source: json\nfiles: bad.jsonl", "'bad.jsonl' cannot be read: JSON parse error: Invalid value"),
        ("source: json\nfiles: bad.jsonl\nstreaming: false", "'bad.jsonl' cannot be read: JSON parse error"),
        ("source: csv\nfiles: [rows.csv, bad.csv]", "one of the files cannot be read: .*Expected 2 fields in line 3"),
        ("source: parquet\nfiles: bad.parquet", "'bad.parquet' cannot be read: Parquet"),
        ("source: text\nfiles: latin.txt", "'latin.txt' cannot be read: 'utf-8' codec"),
        ("source: unknown/dataset", "'unknown/dataset' cannot be read: "),
    ],
)
def test_every_mistake_is_a_one_line_error(
    project: Path, text: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=message) as error:
        documents(project, text)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (ROW + "take: 0", {"problem": "expected an integer above 0, got 0", "option": "take", "line": 3, "column": 1}),
        ("source: jsn", {"option": "source", "line": 1, "hint": "Did you mean 'json'?"}),
        (ROW + "buffer: 3", {"problem": "requires shuffle", "option": "buffer", "line": 3}),
        (ROW + "text_column: number", {"option": "text_column", "line": 3, "hint": "use another column"}),
        (ROW + "messages: chats", {"option": "messages", "line": 3, "hint": "Did you mean 'chat'?"}),
        ("source: json\nfiles: bad.jsonl", {"option": "files", "line": 2}),
        ("source: saved\nsplit: test", {"problem": "'saved' has no splits", "option": "split", "hint": "remove it"}),
        ("a: [", {"option": None, "line": 1}),
    ],
)
def test_errors_have_the_place_in_the_file(project: Path, text: str, fields: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        documents(project, text)
    found = caught.value.fields()
    assert found["file"] == str(project / "default.yaml")
    assert {name: found[name] for name in fields} == fields


def test_an_unreadable_configuration_is_named_once(project: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_configuration(project / "nothing.yaml")
    assert caught.value.file == str(project / "nothing.yaml")
    assert caught.value.problem == "cannot be read: No such file or directory"


def test_does_not_wait_for_an_unreachable_hub(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("forgather_core.data.sources.hub_answers", lambda: False)
    with pytest.raises(DataError, match="no directory 'unknown/dataset', and the Hub cannot be reached"):
        documents(project, "source: unknown/dataset")


def test_refuses_missing_projects_and_configurations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'stdlib'"):
        open_corpus("stdlb")
    with pytest.raises(DataError, match="contains neither a YAML configuration nor data"):
        open_corpus(str(tmp_path))
    with pytest.raises(DataError, match=r"no configuration 'doc'\. Did you mean 'docstrings'"):
        open_corpus("stdlib", "doc")
    with pytest.raises(DataError, match=r"no configuration 'x': choose one of default, docstrings"):
        open_corpus("stdlib", "x")
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"source": "text"}))
    with pytest.raises(DataError, match="is a file: use its directory, with the configuration 'mine'"):
        open_corpus(str(file))


@pytest.mark.regression("P18")
@pytest.mark.parametrize("text", ["source: text\nfiles: a.txt", "source: marked", "source: csv\nfiles: a.csv"])
@pytest.mark.parametrize("streaming", ["true", "false"])
def test_a_byte_order_mark_is_no_text(project: Path, text: str, streaming: str) -> None:
    (project / "a.txt").write_text("first\ufeff", encoding="utf-8-sig")
    (project / "a.csv").write_text("text\nfirst\ufeff\n", encoding="utf-8-sig")
    (project / "marked").mkdir()
    shutil.copy(project / "a.txt", project / "marked")
    (project / "default.yaml").write_text(f"{text}\nstreaming: {streaming}\n", encoding="utf-8-sig")
    assert list(open_corpus(str(project)).documents()) == ["first\ufeff"]


@pytest.mark.regression("P18")
def test_a_file_of_nothing_but_a_byte_order_mark_is_empty(project: Path) -> None:
    (project / "a.txt").write_text("", encoding="utf-8-sig")
    assert documents(project, "source: text\nfiles: [a.txt, 0.txt]") == ["one"]


@pytest.mark.regression("P12")
def test_names_are_kept_as_they_are_written(project: Path) -> None:
    (project / "007").write_text("one")
    (project / "1.10").write_text("two")
    assert documents(project, "source: text\nsplit: 1e3\nfiles: [007, 1.10]") == ["one", "two"]
    assert documents(project, "source: text\nfiles: 1.10") == ["two"]
