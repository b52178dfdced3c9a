"""Choose checks by their names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..definitions.check import Check
from ..errors import CheckError
from ..options.aliases import warn_renamed_option
from ..options.parallel import parallel_sizes
from ..options.spec import did_you_mean
from ..parallel.launched import is_launched
from .call_agreement import call_agreement
from .covering.requested import requested_case
from .known import known_checks
from .other_implementation import other_implementation
from .parallel_agreement import parallel_agreement
from .shared.scope import Scope

if TYPE_CHECKING:
    from ..options.command_options import VerifyOptions
    from ..options.plain_options import VerifyDirectoryOptions

OLD_CHECK_NAMES = {
    "attention-agreement": "attention-backends",
    "cache": "kv-cache",
    "compile": "torch-compile",
    "depth": "signal-propagation",
    "equations": "reference-parity",
    "labels": "loss",
    "native-twin": "native-parity",
    "options-matter": "no-dead-options",
    "outputs": "hidden-states",
    "rows": "batch-invariance",
    "spreads": "init-std",
    "window": "sliding-window",
}


def requested_checks(
    options: VerifyOptions | VerifyDirectoryOptions,
    on_broken: Callable[[str], object] = warnings.warn,
    *,
    parallel: str | None = None,
) -> list[Check]:
    """Return the checks that the options select, from those of Forgather and of plugins.

    Args:
        options: The options of `verify`: `checks`, `quick`, `case`.
        on_broken: Called with one sentence for each plugin whose checks cannot be loaded.
        parallel: The value of `--parallel`.

    Raises:
        CheckError: A check or case does not exist, or an option has no effect on the selected checks.
    """
    names = options.checks.split(",") if options.checks is not None else []
    if options.case is not None:
        requested_case(options.case)
        names = names or [call_agreement.name, *([other_implementation.name] if options.against is not None else [])]
        if not {call_agreement.name, other_implementation.name} & set(names):
            raise CheckError(f"requires the check {call_agreement.name}", option="--case", hint="add it to --checks")
    chosen = choose(known_checks(on_broken=on_broken), names, quick=options.quick)
    if options.against is not None and other_implementation not in chosen:
        hint = f"remove it, or add {other_implementation.name} to --checks"
        raise CheckError(f"has no effect without the check {other_implementation.name}", option="--against", hint=hint)
    if parallel is not None and parallel_agreement not in chosen:
        hint = f"remove it, or add {parallel_agreement.name} to --checks"
        raise CheckError(f"has no effect without the check {parallel_agreement.name}", option="--parallel", hint=hint)
    if options.strength != Scope.strength:
        if options.case is not None:
            raise CheckError("has no effect with --case", option="--strength", hint="remove it")
        if call_agreement not in chosen:
            hint = f"remove it, or add {call_agreement.name} to --checks"
            raise CheckError(f"has no effect without the check {call_agreement.name}", option="--strength", hint=hint)
    return chosen


def requested_scope(options: VerifyOptions | VerifyDirectoryOptions, parallel: str | None = None) -> Scope:
    """Return the scope of a run of the checks.

    Args:
        options: The options of `verify`.
        parallel: The value of `--parallel`.

    Raises:
        CheckError: A launcher has started several processes of this command.
        ConfigurationError: The value of `--parallel` gives no sizes.
    """
    if is_launched():
        problem = "verify runs in one process, and starts the processes of --parallel itself"
        raise CheckError(problem, hint="run it without torchrun")
    if parallel is not None:
        parallel_sizes(parallel)
    return Scope(
        quick=options.quick,
        strength=options.strength,
        case=options.case,
        against=options.against,
        parallel=parallel,
        trust_remote_code=options.trust_remote_code,
    )


def choose(checks: Iterable[Check], names: Sequence[str] = (), *, quick: bool = False) -> list[Check]:
    """Return the checks with these names, or all, in the order of `checks`.

    Args:
        checks: The available checks.
        names: The names to choose; an empty sequence chooses all. Old names work, with a `RenamedOptionWarning`.
        quick: Skip slow checks, unless `names` lists them.

    Raises:
        CheckError: There is no check with one of the names.
    """
    known = {check.name: check for check in checks}
    names = [_current_name(name, known) for name in names]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or "list them: forgather model verify --list"
            raise CheckError(f"there is no check '{name}'", option="--checks", hint=hint)
    return [check for name, check in known.items() if (name in names if names else check.quick or not quick)]


def _current_name(name: str, known: Mapping[str, Check]) -> str:
    new = OLD_CHECK_NAMES.get(name, name)
    if name in known or new not in known:  # a plugin's check may have an old name
        return name
    warn_renamed_option(f"'{new}'", option=f"the check name '{name}'")
    return new
