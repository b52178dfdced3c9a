"""`forgather plugin new`."""

from __future__ import annotations

from pathlib import Path

from .conftest import Cli, nothing_on_disk
from .test_startup import HEAVY, RESOLVING, imported


def test_it_shows_the_files_and_the_next_commands(cli: Cli) -> None:
    done = cli("plugin", "new", "my_model")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Wrote forgather-my-model")
    for file in Path("forgather-my-model").rglob("*.*"):
        assert str(file.relative_to("forgather-my-model")) in done.out
    commands = done.out.partition("Next\n")[2].splitlines()
    assert [line.strip() for line in commands] == [
        "pip install -e ./forgather-my-model",
        "forgather -t my_model model construct",
        "forgather -t my_model model --device cpu test",
        "forgather -t my_model model verify",
        "pip install pytest && pytest ./forgather-my-model",
    ]


def test_as_json(cli: Cli) -> None:
    report = cli("plugin", "new", "mine", "-o", "there", "--json").json
    assert report.keys() == {"name", "distribution", "module", "directory", "files", "next"}
    assert (report["name"], report["directory"]) == ("mine", "there")
    assert (Path("there") / report["files"][0]["path"]).is_file()


def test_errors_are_one_line(cli: Cli) -> None:
    assert "'my-model' cannot be the name" in cli("plugin", "new", "my-model").error
    assert "the plugin 'llama' of forgather uses it" in cli("plugin", "new", "llama").error
    assert "NAME is missing: add it, as in forgather plugin new NAME" in cli("plugin", "new").error
    assert nothing_on_disk()
    Path("forgather-mine").mkdir()
    assert "forgather-mine already exists" in cli("plugin", "new", "mine").error


def test_it_imports_nothing_heavy() -> None:
    assert not imported("plugin", "new", "mine", "--json") & {*HEAVY, *RESOLVING}
    assert Path("forgather-mine").is_dir()
