"""Output of a report: on the terminal, in a file, or in an editor."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgather_core.errors import ForgatherError
from forgather_core.filesystem.printable import printable
from forgather_core.parallel.launched import is_first

from .streams import print_stderr

if TYPE_CHECKING:
    from forgather import Result, SaveReport

MakeView = Callable[[Mapping[str, Any]], Any]


class Output:
    """The output of one command.

    Args:
        make_view: Function that returns the view of a report.
        options: The given options of `OutputOptions`, by name.

    Raises:
        ForgatherError: The file cannot be written, or there is no editor.
    """

    def __init__(self, make_view: MakeView, options: Mapping[str, Any]) -> None:
        self._make_view = make_view
        self._as_json: bool = options.get("json", False)
        self._file: Path | None = options.get("output_file")
        if self._file is not None:
            from .render import check_output

            check_output(self._file, as_json=self._as_json)
        self._editor = _editor() if options.get("edit") else None
        self._reports = is_first()  # of several processes, one reports

    @contextmanager
    def partial(self) -> Iterator[Callable[[Result], None]]:
        """Emit the partial results if the block raises an exception, and raise the exception again."""
        kept: list[Result] = []
        try:
            yield kept.append
        except BaseException:
            for result in kept:
                self.emit(result)
            raise

    def emit(self, result: Result | SaveReport) -> None:
        """Print the report of a result, write it to a file, or open it in the editor."""
        if not self._reports:
            return
        from .render import show, write

        report = result.to_dict()
        if self._file is None and self._editor is None:
            show(report, self._make_view(report), as_json=self._as_json)
            return
        title = report.get("model_name") or result.kind
        path = self._file or Path(tempfile.mkdtemp(prefix="forgather-")) / f"{title}.txt"
        write(report, self._make_view(report), path, title, kind=result.kind, as_json=self._as_json)
        if self._editor is not None:
            subprocess.run([*self._editor, str(path)], check=False)
        else:
            print_stderr(f"wrote {printable(str(path))}")


def _editor() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        if os.environ.get(variable, "").strip():
            try:
                command = shlex.split(os.environ[variable])
            except ValueError as error:
                problem = f"{variable} is not a valid command: {error}"
                raise ForgatherError(problem, option="--edit", hint=f"correct the quotes in {variable}") from None
            if shutil.which(command[0]) is None:
                problem = f"the program '{command[0]}' of {variable} does not exist"
                raise ForgatherError(problem, option="--edit", hint=f"set {variable} to an installed editor")
            return command
    hint = "set VISUAL or EDITOR, for example: export EDITOR=nano"
    raise ForgatherError("no editor is set", option="--edit", hint=hint)
