"""README and the pages under docs/ work as shown; `pages.py` documents how blocks are run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer

import pytest

from tests.support.fork_server import ForkServer

from .pages import Block, apply, commands, is_printed, parts, sessions, stale_lines

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
# Tests run without a GPU, with few steps of `test` and `train`, and with two checks of `verify`.
REPLACED = {
    "--device cuda": "--device cpu",
    "--steps 20": "--steps 3",
    "--steps 40": "--steps 3",
    "--tokens 10M": "--tokens 512 --sequence-length 16 --batch-size 4",
}
FEW_CHECKS = " --checks causality,kv-cache"
SECONDS = 300
# Runs the blocks that it reads, each the text of a Python string, and ends with the first that fails.
BLOCKS = """
import ast, sys
names = {"__name__": "__main__"}
for line in sys.stdin:
    exec(compile(ast.literal_eval(line), "<page>", "exec"), names)
    print("\\nthe block has ended", flush=True)
"""


class Program:
    """Run the Python blocks of a page one after another in one process, which starts with the first block."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.place = place
        self.environment = environment
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.communicate()

    def run(self, block: str) -> None:
        if not block:
            return
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BLOCKS],
                cwd=self.place,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        limit = Timer(SECONDS, self.process.kill)
        limit.start()
        self.process.stdin.write(f"{block!r}\n")
        self.process.stdin.flush()
        printed = []
        for line in self.process.stdout:
            if line == "the block has ended\n":
                break
            printed.append(line)
        else:
            raise AssertionError(f"the Python block fails:\n{''.join(printed)}")
        limit.cancel()


class Reader:
    """Run the blocks of a page in a directory."""

    def __init__(self, place: Path, environment: dict[str, str], server: ForkServer, names: dict[str, str]) -> None:
        self.place, self.server = place, server
        # Without .pyc files: a source that a page edits twice in a second would be taken for the one before.
        self.environment = environment | {"COLUMNS": "120", "PYTHONDONTWRITEBYTECODE": "1"}
        self.replaced = REPLACED | names
        self.program = Program(place, self.environment)
        self.undone: tuple[Path, str] | None = None

    def read(self, page: Path) -> None:
        for part in parts(page.read_text(encoding="utf-8")):
            if not isinstance(part, Block):
                self.undo()
                continue
            try:
                self.do(part)
            except AssertionError as error:
                raise AssertionError(f"{page.relative_to(ROOT)}:{part.line}: {error}") from None

    def do(self, block: Block) -> None:
        what, value = block.directive
        if what == "not run" or (what, value) == ("ci", "test"):  # `.ci/run` runs the tests themselves
            return
        assert block.is_known, f"the language of the block is unknown: '{block.language}'"
        if what == "file":
            (self.place / value).parent.mkdir(parents=True, exist_ok=True)
            (self.place / value).write_text(block.text, encoding="utf-8")
        elif block.language == "diff":
            assert what in ("edit", "try"), "a diff needs to know its file"
            self.undo()
            before = apply(block.text, self.place / value)
            self.undone = (self.place / value, before) if what == "try" else None
        elif block.language == "bash":
            for command in commands(block.text):
                few = FEW_CHECKS * (" verify" in command and not re.search("--(check|case)", command))
                self.run(command + few, codes=(0,))
        elif block.language == "python":
            self.program.run(block.text)
        elif block.language == "console":
            for command, expected in sessions(block.text):
                printed = self.run(command, codes=(2,) if "error: " in expected else (0, 1))
                assert is_printed(expected, printed), f"'{command}' printed:\n{printed}"
                assert not (stale := stale_lines(expected, printed)), f"'{command}': stale: {stale}\n{printed}"

    def run(self, command: str, codes: tuple[int, ...]) -> str:
        for name, value in self.replaced.items():
            command = re.sub(rf"(?<![\w/-]){re.escape(name)}(?!\w)", value, command)
        if command == "pip install -e ./forgather-my-model":
            return self.install("my_model")
        program, *arguments = command.split()
        if program == "pytest":
            module = ["pytest", "-q", "-k", "causality or preset"]
        elif program == "forgather":
            module = ["forgather_cli.main"]
        else:
            raise AssertionError(f"no program of that name is known here: {command}")
        ran = self.server.run(
            ["-m", *module, *arguments],
            cwd=self.place,
            environment=self.environment,
            seconds=SECONDS,
            merged=True,
        )
        code, printed = ran.returncode, ran.stdout
        assert code in codes, f"{command} exits with {code}:\n{printed}"
        return printed

    def install(self, name: str) -> str:
        """Write the metadata of an editable installation; the package itself is on the path."""
        information = self.place / "site" / f"forgather_{name}-0.1.0.dist-info"
        information.mkdir(parents=True)
        (information / "entry_points.txt").write_text(f"[forgather.models]\n{name} = forgather_{name}.plugin\n")
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: forgather-{name}\nVersion: 0.1.0\n")
        return ""

    def undo(self) -> None:
        if self.undone is not None:
            file, text = self.undone
            file.write_text(text, encoding="utf-8")
            self.undone = None


@dataclass(frozen=True)
class Reading:
    """Pages that are read in one directory, in this order, and the state in which their reader begins.

    Args:
        pages: Paths from the root of the project.
        before: Commands that are run first.
        program: The beginning of the Python program of the page.
        names: Words in commands that stand for something else, such as DIR.
        path: Directories that Python searches for packages: those that the page installs.
    """

    pages: tuple[str, ...]
    before: tuple[str, ...] = ()
    program: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()


BUILT = "output_models/llama_4m"
BUILD = "forgather -t llama/4M model --device cpu --save-checkpoint construct"
QWEN3 = (  # a narrow one stands for the published weights
    "forgather -t qwen3 model --hidden-size 128 --intermediate-size 256 --device cpu --save-checkpoint --native "
    "--output-dir Qwen3-0.6B construct"
)
READ = {
    "readme": Reading(("README.md",)),
    "index": Reading(("docs/index.md",)),
    "first-model": Reading(("docs/first-model.md", "docs/change-a-model.md"), before=(QWEN3,)),
    "write-a-plugin": Reading(("docs/write-a-plugin.md",), path=("forgather-my-model", "site")),
    "verify": Reading(("docs/verify.md",), before=(BUILD,), names={"DIR": BUILT}),
    "testing": Reading(
        ("docs/testing.md",),
        before=(BUILD,),
        program=f"""
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("{BUILT}", trust_remote_code=True)
ids = torch.arange(8)[None]
""",
    ),
    "train": Reading(("docs/train.md",)),
    "estimate": Reading(("docs/estimate.md",)),
    "checkpoints": Reading(
        ("docs/checkpoints.md",),
        before=(BUILD,),
        names={"SRC": BUILT, "DST": "converted", "DIR": BUILT},
    ),
    "datasets": Reading(("docs/datasets.md",)),
    "python": Reading(("docs/python.md",)),
    "notebooks": Reading(("docs/notebooks.md",)),
}
REPRODUCES = {"write-a-plugin": pytest.mark.regression("P15")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache of Hugging Face for all pages, which tokenize the same data."""
    return tmp_path_factory.mktemp("hf")


@pytest.fixture
def environment(environment: dict[str, str], cache: Path) -> dict[str, str]:
    return environment | {"HF_HOME": str(cache)}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return an empty directory."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.mark.parametrize("name", [pytest.param(name, marks=REPRODUCES.get(name, ())) for name in READ])
def test_page(name: str, place: Path, environment: dict[str, str], server: ForkServer) -> None:
    reading = READ[name]
    path = [*(str(place / entry) for entry in reading.path), *filter(None, [environment.get("PYTHONPATH")])]
    reader = Reader(place, environment | {"PYTHONPATH": os.pathsep.join(path)}, server, dict(reading.names))
    for command in reading.before:
        reader.run(command, codes=(0,))
    with reader.program as program:
        program.run(reading.program)
        for page in reading.pages:
            reader.read(ROOT / page)


@pytest.mark.regression("P17")
@pytest.mark.exhaustive  # forty steps; README's page runs the same commands with three
def test_the_main_command_ends_on_a_falling_loss(place: Path, environment: dict[str, str], server: ForkServer) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    main = next(part for part in parts(text) if isinstance(part, Block) and part.text.startswith("pip install ."))
    reader = Reader(place, environment, server, {})
    reader.replaced = {}  # all forty steps
    construct, test_command = commands(main.text)
    reader.run(construct, codes=(0,))
    report = json.loads(reader.run(f"{test_command} --json", codes=(0,)))
    losses = [step["loss"] for step in report["steps"]]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.5
    assert report["loss"]["first_batch_decrease"] > 1
