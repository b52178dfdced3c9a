"""`forgather dataset`: list projects and show one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Cli

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
TEXTS = ["one", "two\nlines", "a long line of \x1b[31mred\x07 " + "words " * 100, "\n".join("abcdefghijkl")]


@pytest.fixture(autouse=True)
def _project() -> None:
    project = Path("project")
    project.mkdir()
    (project / "rows.jsonl").write_text("".join(json.dumps({"text": text, "chat": CHAT}) + "\n" for text in TEXTS))
    (project / "default.yaml").write_text("source: json\nfiles: rows.jsonl\n")
    (project / "chats.yaml").write_text("source: json\nfiles: rows.jsonl\nmessages: chat\nshuffle: 0\nbuffer: 2\n")
    (project / "wrong.yaml").write_text("source: json\nfile: rows.jsonl\n")


def test_the_built_in_projects_are_listed(cli: Cli) -> None:
    ran = cli("dataset", "ls")
    assert (ran.code, ran.err) == (0, "")
    assert "| stdlib  | docstrings | Docstrings" in ran.out
    assert cli("dataset", "ls", "stdlib").out == ran.out
    rows = cli("dataset", "ls", "--json").json["configurations"]
    assert [(row["project"], row["config"]) for row in rows] == [("stdlib", "default"), ("stdlib", "docstrings")]


def test_the_configurations_of_a_project_are_listed(cli: Cli) -> None:
    ran = cli("dataset", "ls", "project")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert "| chats   | json: rows.jsonl |       | chat (chats) | shuffle: 0, buffer: 2 |" in lines
    assert "| default | json: rows.jsonl |       | text         |                       |" in lines
    assert lines[-1] == "project/wrong.yaml:2:1: file: unknown key. Did you mean 'files'?"
    rows = {row["config"]: row for row in cli("dataset", "ls", "project", "--json").json["configurations"]}
    assert rows["chats"] == {
        "project": "project",
        "config": "chats",
        "file": "project/chats.yaml",
        "source": "json",
        "files": ["rows.jsonl"],
        "messages": "chat",
        "shuffle": 0,
        "buffer": 2,
    }
    assert "unknown key" in rows["wrong"]["error"]


def test_a_dataset_is_counted_and_shown(cli: Cli) -> None:
    report = cli("dataset", "show", "project", "--tokenizer", "bytes", "--json").json
    sizes = [len(text) + 2 for text in TEXTS]  # between BOS and EOS, a token is a byte
    assert report["counted"] == {
        "documents": 4,
        "all": True,
        "characters": sum(map(len, TEXTS)),
        "tokens": sum(sizes),
        "characters_per_token": round(sum(map(len, TEXTS)) / sum(sizes), 3),
        "shortest": 5,
        "median": (sizes[1] + sizes[3]) // 2,
        "longest": sizes[2],
    }
    assert report["columns"] == [
        {"name": "text", "type": "string"},
        {"name": "chat", "type": "list of {role, content}"},
    ]
    assert [example["text"] for example in report["examples"]] == [f"<|BOS|>{text}<|EOS|>" for text in TEXTS[:3]]
    assert report["tokenizer"] == {"name": "bytes", "vocab_size": 262}
    assert report["source"] == {"source": "json", "files": ["rows.jsonl"]}


def test_examples_contain_no_control_characters_and_are_cut(cli: Cli) -> None:
    ran = cli("dataset", "show", "project", "--tokenizer", "bytes", "--examples", "4")
    assert (ran.code, ran.err) == (0, "")
    assert "\x1b" not in ran.out and "\x07" not in ran.out
    assert "a long line of \\x1b[31mred\\x07 words" in ran.out
    assert "  <|BOS|>two\n  lines<|EOS|>\n" in ran.out
    assert ran.out.endswith("  g\n  … 4 more lines …\n  l<|EOS|>\n")
    assert max(map(len, ran.out.splitlines())) <= 200
    assert "documents            4 " in ran.out


def test_a_limit_is_reported(cli: Cli) -> None:
    ran = cli("dataset", "show", "project", "--limit", "2", "--examples", "0")
    assert "2 were read; there are more (--limit)" in ran.out
    assert "Document" not in ran.out
    counted = cli("dataset", "show", "stdlib", "--config", "docstrings", "--limit", "5", "--json").json["counted"]
    assert (counted["documents"], counted["all"]) == (5, False)
    assert cli("dataset", "show", "project", "--limit", "all", "--json").json["counted"]["all"]


def test_chats_are_rendered(cli: Cli) -> None:
    chats = ("dataset", "show", "project", "--config", "chats")
    assert "no chat template for the dataset's messages: add --chat-template chatml" in cli(*chats).error
    ran = cli(*chats, "--chat-template", "chatml", "--examples", "1")
    assert "  <|im_start|>user\n  Hi<|im_end|>\n  <|im_start|>assistant\n  Yo<|im_end|>\n  <|EOS|>\n" in ran.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "ls nowhere",
            "PROJECT: 'nowhere' is neither a file, a directory nor a built-in project (stdlib): check the path",
        ),
        ("show", "PROJECT is missing: add it, as in forgather dataset show PROJECT"),
        ("show stdlb", "Did you mean 'stdlib'"),
        (
            "show project --config chat",
            "'chat'. Did you mean 'chats'",
        ),
        ("show project --config wrong", "project/wrong.yaml:2:1: file: unknown key"),
        ("show project --tokenizer nope", "--tokenizer: 'nope' does not exist"),
        (
            "show project --chat-template nope",
            "--chat-template: 'nope' is neither a file, a shipped template nor a template of the tokenizer",
        ),
        ("show project --limit few", "--limit: expected an integer or all, got 'few'"),
        ("show project --limit 0", "--limit must be at least 1, got 0"),
        ("show project --examples -1", "--examples must be at least 0, got -1"),
        ("shw", "No such command 'shw'. Did you mean 'show'?"),
    ],
)
def test_every_mistake_is_one_line(cli: Cli, words: str, message: str) -> None:
    assert message in cli("dataset", *words.split()).error
