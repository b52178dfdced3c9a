"""Results about models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgather_core.filesystem.printable import plain_copy
from forgather_core.pages.units import bytes_of, count_of

from .progress import Progress, partial_of
from .public import one_call
from .results import Result

if TYPE_CHECKING:
    from torch import nn

    from forgather_core.checkpoint import LoadReport, SaveReport
    from forgather_core.commands.construct import ConstructedModel
    from forgather_core.settings.resolved_model import ResolvedModel

__all__ = [
    "Comparison",
    "Construction",
    "Estimate",
    "ShownModel",
    "TrainingCheck",
    "Verification",
]


class ShownModel(Result):
    """The options of a model, with the origin of each value.

    Attributes:
        resolved: The resolved model.
    """

    kind = "show"

    def __init__(self, report: Mapping[str, Any], resolved: ResolvedModel) -> None:
        super().__init__(report)
        self.resolved = resolved

    def _summary(self) -> str:
        return f"{self._report['configuration']}: {len(self._report['options'])} options"


class _Partial(Result):
    """The report of a constructed model without the memory of a training step."""

    kind = "construct"

    def _summary(self) -> str:
        return str(self._report["model_name"])


class Construction(Result):
    """A constructed model.

    Attributes:
        model: The model, a `PreTrainedModel` of the definition's class.
        directory: The model directory.
        state: `created`, `rebuilt`, `reused`, or `kept` (used although it differs from the options).
        resolved: The options, with the facts of the tokenizer.
        loaded: The report on loaded weights; None without `load_from_checkpoint`.
        saved: The report on saved weights; None without `save_checkpoint`.
    """

    kind = "construct"

    def __init__(self, made: ConstructedModel, progress: Progress) -> None:
        from forgather_core.model.meta_model import Template
        from forgather_core.report.construction import report_without_memory

        self._progress = progress
        # Read now: the directory and the model may change before the report is read.
        self._without_memory, self._template = report_without_memory(made), Template.of(made.model)
        self.model: nn.Module = made.model
        self.directory: Path = made.directory.path
        self.state: str = made.directory.state
        self.resolved: ResolvedModel = made.resolved
        self.loaded: LoadReport | None = made.loaded
        self.saved: SaveReport | None = made.saved

    @cached_property
    def _report(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The report of the construction. The memory of a training step is estimated when it is first read."""
        from forgather_core.report.construction import with_memory
        from forgather_core.training.random_state import kept_random_state

        partial = partial_of(self._progress, _Partial)
        with one_call(), kept_random_state():
            report: Mapping[str, Any] = with_memory(self._without_memory, self.resolved, self._template, partial)
        return report

    @property
    def parameters(self) -> int:
        """Number of parameters. Tied ones count once."""
        return int(self._without_memory["parameters"]["total"])

    def _summary(self) -> str:
        return f"{self.resolved.model_name}: {count_of(self.parameters)} parameters, {self.state} {self.directory}"


class TrainingCheck(Result):
    """The results of a few training steps."""

    kind = "test"

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of each step, in nats per token. Empty on meta."""
        return tuple(step["loss"] for step in self._report.get("steps") or ())

    @property
    def first_batch_decrease(self) -> float | None:
        """The decrease of the loss on the first batch, positive if training works; None on meta or if interrupted."""
        decrease = (self._report.get("loss") or {}).get("first_batch_decrease")
        return None if decrease is None else float(decrease)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return int(self._report["parameters"]["total"])

    def _summary(self) -> str:
        losses = self.losses
        change = f"loss {losses[0]:.4f} to {losses[-1]:.4f} in {len(losses)} steps" if losses else "not run on meta"
        return f"of {self._report['model_name']}: {change}"


class Verification(Result):
    """The results of the checks of a model directory."""

    kind = "verify"

    @property
    def ok(self) -> bool:
        """Return whether all requested checks ran, at least one passed and none failed.

        Checks that do not apply to the model count as run. A run that ended early, and one without any check that
        applies, is not ok.
        """
        return self.complete and bool(self._report["passed"]) and not self._report["failed"]

    @property
    def complete(self) -> bool:
        """Return whether all requested checks ran. Otherwise `notes` states the reason."""
        return bool(self._report["complete"])

    @property
    def passed(self) -> tuple[str, ...]:
        """Names of the checks that passed."""
        return self._named("passed")

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return self._named("failed")

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the skipped checks: they do not apply to the model."""
        return self._named("skipped")

    def _named(self, result: str) -> tuple[str, ...]:
        return tuple(check["name"] for check in self._report["checks"] if check["result"] == result)

    def _summary(self) -> str:
        name = self._report.get("model_name") or self._report["directory"]
        failed = f" ({', '.join(self.failed)})" if self.failed else ""
        skipped = f"{len(self.skipped)} skipped"
        incomplete = "" if self.complete else ", incomplete"
        return f"of {name}: {len(self.passed)} passed, {len(self.failed)} failed{failed}, {skipped}{incomplete}"


class Estimate(Result):
    """The estimated parameters, memory and compute of a model, and its limits on devices.

    With `parallel`, memory is that of one device of the mesh.
    """

    kind = "estimate"

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return int(self._report["parameters"]["total"])

    @property
    def training_memory(self) -> int:
        """Peak memory of a training step, in bytes."""
        return int(self._report["training"]["peak"])

    @property
    def generation_memory(self) -> int:
        """Peak memory of generation, in bytes."""
        return int(self._report["generation"]["peak"])

    @property
    def flops_per_token(self) -> float:
        """FLOPs/token of a training step, forward and backward, without recomputation."""
        return float(self._report["flops"]["training"])

    @property
    def devices(self) -> tuple[Mapping[str, Any], ...]:
        """The limits of the model on each device."""
        return tuple(plain_copy(self._report["devices"]))

    @property
    def parallel(self) -> Mapping[str, Any] | None:
        """The mesh and the communication of a device in a step; None without `parallel`."""
        copied: Mapping[str, Any] | None = plain_copy(self._report.get("parallel"))
        return copied

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends, and receives, in a training step; 0 without `parallel`."""
        return float(self._report["parallel"]["bytes"]) if "parallel" in self._report else 0.0

    def _summary(self) -> str:
        memory = f"{bytes_of(self.training_memory)} at the peak of a training step"
        return f"of {self._report['configuration']}: {count_of(self.parameters)} parameters, {memory}"


class Comparison(Result):
    """Models side by side. Every row of the report has one value for each model."""

    kind = "compare"

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in the order of all rows."""
        return tuple(self._report["models"])

    @property
    def differences(self) -> Mapping[str, Sequence[Any]]:
        """The options that differ, by name."""
        copied: Mapping[str, Sequence[Any]] = plain_copy(self._report["options"])
        return copied

    def _summary(self) -> str:
        return f"of {', '.join(self.models)}: {len(self.differences)} options differ"
