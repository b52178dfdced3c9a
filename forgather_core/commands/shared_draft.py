"""The draft of a model directory that one process writes, and all processes read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BuildError
from ..export.contents import plan_contents
from ..export.directory import Draft, draft_directory

if TYPE_CHECKING:
    from ..parallel.processes import Processes
    from ..settings.resolved_model import ResolvedModel


@contextmanager
def shared_draft(
    processes: Processes | None,
    resolved: ResolvedModel,
    target: Path,
    *,
    refresh: bool,
    keep: bool,
    on_wait: Callable[[], None] | None,
) -> Iterator[Draft]:
    """Yield the draft of a model directory; of several processes, the first writes it.

    Args:
        processes: The processes, or None if there is only one. Each must call this.
        resolved, target, refresh, keep, on_wait: See `draft_directory`.

    Raises:
        BuildError: A process does not find the directory.
        ForgatherError: See `draft_directory`; in every process.
    """
    with ExitStack() as stack:

        def opened() -> Draft:
            return stack.enter_context(draft_directory(resolved, target, refresh=refresh, keep=keep, on_wait=on_wait))

        if processes is None:
            yield opened()
            return
        own: list[Draft] = []

        def opened_first() -> tuple[Path, object]:
            own.append(opened())
            return own[0].path.resolve(), own[0].result

        path, result = processes.first(opened_first)
        missing = None
        if not path.is_dir():
            problem = f"does not exist for process {processes.rank}"
            missing = BuildError(problem, file=path, hint="use a directory on a file system that all processes share")
        processes.agree(missing)
        yield own[0] if own else Draft(path, target, result, plan_contents(resolved).resolved)  # type: ignore[arg-type]
