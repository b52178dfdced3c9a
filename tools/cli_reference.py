"""Write docs/cli.md from the program's own help pages, or check that it is up to date.

python tools/cli_reference.py [--check]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
COMMANDS = {
    "The program": [],
    "Definitions and configurations": ["ls"],
    "Plugins": ["plugins"],
    "Models": ["-t", "llama/4M", "model"],
    "Construct": ["-t", "llama/4M", "model", "construct"],
    "Test": ["-t", "llama/4M", "model", "test"],
    "Verify": ["-t", "llama/4M", "model", "verify"],
    "Verify a directory": ["verify"],
    "Show": ["-t", "llama/4M", "model", "show"],
    "Estimate": ["-t", "llama/4M", "model", "estimate"],
    "Compare": ["model", "compare"],
    "Checkpoints": ["checkpoint"],
    "Inspect a checkpoint": ["checkpoint", "inspect"],
    "Convert a checkpoint": ["checkpoint", "convert"],
    "Datasets": ["dataset"],
    "List dataset projects": ["dataset", "ls"],
    "Show a dataset": ["dataset", "show"],
    "Tokenizers": ["tokenizer"],
    "Train a tokenizer": ["tokenizer", "train"],
    "Write plugins": ["plugin"],
    "Write a plugin": ["plugin", "new"],
}
HEAD = """# Command line

Made from the program by `python tools/cli_reference.py`; `.ci/run` checks that it is true.

Exit codes: 0, all well; 1, the model failed its test, or a plugin is broken; 2, wrong input, told in one line that
begins with `forgather: error:`; 130, interrupted. Anything else is a bug and shows a traceback.
`FORGATHER_TRACEBACK=1` shows one for wrong input too. `FORGATHER_DISABLE_PLUGINS=a,b` switches plugins off.

`-t` takes `llama/4M`, `llama` (its default preset), a YAML file, or the name of one in the project directory (`-p DIR`)
or its `configs/`. Options of a model stand before or after the command; the later one wins. A value of `null` unsets.

An option that is typed for a command that does not use it is refused, with the commands that do: `--steps has no
effect on 'show'; it belongs to 'test'`. So is one that has no effect with the others: `--safetensors requires
--save-checkpoint`. Values in YAML files are not refused, since one file may serve several commands.
"""


def main() -> int:
    """Write the page, or with `--check` compare it."""
    text = HEAD
    for title, arguments in COMMANDS.items():
        command = ["forgather", *arguments, "--help"]
        text += f"\n## {title}\n\n```\n$ {' '.join(command)}\n{_help(arguments)}```\n"
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print("docs/cli.md is out of date: run python tools/cli_reference.py", file=sys.stderr)
        return 1
    return 0


def _help(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "forgather_cli.main", *arguments, "--help"]
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "FORGATHER_DISABLE_PLUGINS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.replace("python -m forgather_cli.main", "forgather")


if __name__ == "__main__":
    sys.exit(main())
