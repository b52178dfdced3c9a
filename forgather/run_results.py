"""Results of training runs, samples and evaluations."""

from __future__ import annotations

from pathlib import Path

from forgather_core.pages.units import with_noun

from .results import Result

__all__ = ["Evaluation", "Samples", "TrainingRun"]


class TrainingRun(Result):
    """A training run."""

    kind = "train"

    @property
    def directory(self) -> Path:
        """The model directory, with the final weights and `train.json`."""
        return Path(self._report["directory"])

    @property
    def process(self) -> int:
        """The rank of this process in the run; rank 0 reports."""
        return int(self._report["setup"]["process"])

    @property
    def losses(self) -> tuple[float, ...]:
        """The training losses at the logged steps, in nats per token."""
        return tuple(step["loss"] for step in self._report["steps"])

    @property
    def evaluation_loss(self) -> float | None:
        """The loss on the held-out documents at the end, in nats per token."""
        final = self._report["final"]
        return None if final is None or final["loss"] is None else float(final["loss"])

    @property
    def bits_per_byte(self) -> float | None:
        """The cross-entropy on the held-out documents at the end, in bits per byte."""
        final = self._report["final"]
        return None if final is None or final["bits_per_byte"] is None else float(final["bits_per_byte"])

    def _summary(self) -> str:
        loss = self.evaluation_loss
        end = f"evaluation loss {loss:.4f}" if loss is not None else "not finished"
        return f"of {self._report['model_name']}: {with_noun(self._report['plan']['steps'], 'step')}, {end}"


class Samples(Result):
    """Continuations of texts."""

    kind = "sample"

    @property
    def continuations(self) -> tuple[str, ...]:
        """The continuations, without their prompts, in the order of the prompts."""
        return tuple(one["continuation"] for one in self._report["samples"])

    def _summary(self) -> str:
        return f"of {self._report['model_name']}: {len(self._report['samples'])} continuations"


class Evaluation(Result):
    """The loss of a model on a dataset."""

    kind = "eval"

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats per token."""
        return float(self._report["loss"])

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy of the text in bits per byte."""
        return float(self._report["bits_per_byte"])

    def _summary(self) -> str:
        per_byte = f"{self.bits_per_byte:.4f} bits per byte"
        return f"of {self._report['model_name']}: loss {self.loss:.4f}, {per_byte} on {self._report['data']}"
