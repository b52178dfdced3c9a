"""transformers' Trainer with crash-safe checkpoints, a chunked loss, and an error for non-finite values."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..checkpoint import rotate_checkpoints, save_checkpoint
from ..checkpoint.write.steps import step_checkpoints
from ..data.packed_stream import PackedStream
from ..errors import CheckpointError, TrainingError, first_line
from ..filesystem.atomic import replace_directory, staging_directory
from ..filesystem.printable import to_json
from ..parts.weight_pieces import is_sharded
from ..training.combined_optimizer import decayed_names, is_fused
from ..training.loop import non_finite_error
from ..training.loss import can_skip_logits
from ..training.random_state import RandomState
from .disk_errors import disk_errors
from .evaluation import HeldOut, Part, evaluate
from .optimizer_state import EARLIER, has_named_state, load_optimizer, load_schedule
from .random_parts import POSITION, begin_random_state, has_same_parts, parts_of
from .watch import last_checkpoint
from .weights import load_all_weights

_SMALLER_LR = "try a smaller --lr, or --mixed-precision no"


class Trainer(transformers.Trainer):
    """transformers' Trainer with five changes.

    - A checkpoint is written to a staging directory and renamed: a kill at any time leaves complete checkpoints only.
      The best and the last one are never removed. A checkpoint also contains the position in a `PackedStream`.
    - The loss is computed in chunks, without the full logits, if the model supports it.
    - Weight decay applies to matrices only.
    - A loss or a gradient that is not finite raises a `TrainingError` that names the module, before the weights change.
    - If `eval_dataset` is a `HeldOut`, `evaluate` computes the loss per token and per byte of its documents.

    Args:
        args, kwargs: The arguments of transformers' Trainer.
        full_logits: Compute the logits of all tokens.

    Raises:
        TrainingError: `train`: a loss or a gradient is not finite.
        CheckpointError: `train`: a checkpoint cannot be saved; the last one is complete.
    """

    def __init__(self, *args: Any, full_logits: bool = False, **kwargs: Any) -> None:
        if isinstance(kwargs.get("train_dataset"), PackedStream):
            # The Trainer's default with a tokenizer adds an attention mask, with which some models ignore document
            # boundaries.
            kwargs.setdefault("data_collator", transformers.default_data_collator)
        super().__init__(*args, **kwargs)
        # With a limit of 1, the Trainer would remove all checkpoints but the best one at the end.
        self.args: Any = copy.copy(self.args)  # the caller may use them for another Trainer
        self._keep, self.args.save_total_limit = self.args.save_total_limit, None
        self._check_rows()
        self._skip_logits = not full_logits and can_skip_logits(self.accelerator.unwrap_model(self.model))
        self._staging: Path | None = None
        self._rng_from: str | None = None  # the checkpoint whose random state is still to be restored
        self._has_random_state = False  # its own, for dropout of its rows
        self._calls: list[tuple[dict[str, Any], RandomState, Tensor]] = []  # batches of this optimizer step

    def _check_rows(self) -> None:
        """Check that a step reads one batch of a stream: the position in the stream is a number of batches."""
        if not isinstance(self.train_dataset, PackedStream):
            return
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self._data_part().count
        if self.train_dataset.rows != rows:
            problem = f"a step reads {rows} rows, but the PackedStream has batches of {self.train_dataset.rows}"
            raise TrainingError(problem, hint=f"create the PackedStream with rows={rows}")

    def _data_part(self) -> Part:
        """Return the part of the data that this process reads."""
        return Part(self.accelerator.process_index, self.accelerator.num_processes)

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """Compute the loss, in chunks unless the outputs are requested."""
        if self._skip_logits and not return_outputs:
            inputs = {**inputs, "skip_logits": True}
        result = super().compute_loss(model, inputs, return_outputs, **kwargs)
        loss: Tensor = result[0] if return_outputs else result
        if model.training and is_fused(self.optimizer) and not loss.isfinite():  # backward would update the weights
            raise self._non_finite([(dict(inputs), RandomState.take(self.args.device), loss)])
        return result

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run forward and backward of one batch."""
        rng = RandomState.take(self.args.device)
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        self._calls.append((dict(inputs), rng, loss))
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Check losses and gradients, and return the norm. Called before each optimizer step."""
        norm = super()._get_grad_norm(model, grad_norm)
        calls, self._calls = self._calls, []
        finite = torch.stack([loss.isfinite().all() for _, _, loss in calls]).all()
        if not (finite & torch.as_tensor(norm, device=finite.device).isfinite()):
            raise self._non_finite(calls)
        return norm

    def _non_finite(self, calls: list[tuple[dict[str, Any], RandomState, Tensor]]) -> TrainingError:
        model = self.accelerator.unwrap_model(self.model)
        inputs, rng, loss = next((call for call in calls if not call[2].isfinite().all()), calls[-1])
        inputs = {name: value.to(self.args.device) for name, value in inputs.items()}
        part, number = self._data_part(), self.state.global_step + 1
        together = part if part.together else None
        error = non_finite_error(model, inputs, rng, number, loss, hint=_SMALLER_LR, share=together)
        return TrainingError(f"{error.problem}{last_checkpoint(self.args.output_dir)}", hint=error.hint)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters with weight decay: the matrices."""
        return decayed_names(model)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Evaluate on held-out documents; on another dataset, as transformers' Trainer does."""
        if not isinstance(self.eval_dataset, HeldOut):
            result: dict[str, float] = super().evaluate(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            return result
        evaluation = evaluate(
            self.model,
            self.eval_dataset,
            part=self._data_part(),
            total=lambda sums: self.accelerator.reduce(sums, "sum"),
            context=self.accelerator.autocast,
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in asdict(evaluation).items()}
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint to a staging directory, rename it, and remove old ones."""
        run = Path(self._get_output_dir(trial))
        target = run / f"checkpoint-{self.state.global_step}"
        with self._staged_directory(target):
            super()._save_checkpoint(model, trial)
            if self.args.should_save and self._staging is not None:
                self._write_additional_files(self._staging / target.name, target)
        if self.args.should_save and self._keep:
            best = self.best_checkpoint
            # rotate_checkpoints keeps incomplete checkpoints, and rejects one as `best`.
            complete = any(saved.path == best and saved.problem is None for saved in step_checkpoints(run))
            rotate_checkpoints(run, max(1, self._keep), best=best if complete else None)

    @property
    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the lowest evaluation loss, of the steps that were both evaluated and saved."""
        run = Path(self._get_output_dir(None))
        losses = {log["step"]: log["eval_loss"] for log in self.state.log_history if "eval_loss" in log}
        saved = {step: run / f"checkpoint-{step}" for step in losses if (run / f"checkpoint-{step}").is_dir()}
        return saved[min(saved, key=lambda step: losses[step])] if saved else None

    def _write_additional_files(self, staged: Path, target: Path) -> None:
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(target)  # the Trainer has set the path before the rename
            self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
        if isinstance(self.train_dataset, PackedStream):
            position = self.train_dataset.position_after(self.state.global_step)
            position |= {"processes": self.args.world_size, **parts_of(self._data_part())}
            (staged / POSITION).write_text(to_json(position, indent=None), encoding="utf-8")

    @contextmanager
    def _staged_directory(self, target: Path) -> Iterator[None]:
        """Let all processes write into one staging directory, which becomes `target` when all have written."""
        main = self.args.should_save
        best = self.state.best_model_checkpoint
        with ExitStack() as stack:
            stack.enter_context(disk_errors(target))
            staging = [str(stack.enter_context(staging_directory(target)).parent) if main else ""]
            stack.enter_context(disk_errors(target))  # again, before the staging directory is removed
            if self.accelerator.num_processes > 1:
                torch.distributed.broadcast_object_list(staging)
            self._staging = Path(staging[0])
            try:
                yield
            finally:
                self._staging = None
            self.accelerator.wait_for_everyone()
            if main:
                if self.state.best_global_step != self.state.global_step:
                    self.state.best_model_checkpoint = best
                replace_directory(Path(staging[0]) / target.name, target, known=())
            self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Any] | None = None) -> None:
        """Save the model, its sources and its tokenizer: the checkpoint is a model directory."""
        if state_dict is not None or output_dir is None:
            super()._save(output_dir, state_dict)
            return
        if not self.args.should_save and not any(map(is_sharded, self.model.parameters())):
            return  # the first process has the whole model, too
        save_checkpoint(output_dir, self.model, safetensors=True)
        if self.processing_class is not None and self.args.should_save:
            self.processing_class.save_pretrained(output_dir)

    def take_over(self, checkpoint: Path) -> None:
        """Load the weights and the Trainer's state of a run's last checkpoint, without training.

        Raises:
            CheckpointError: The weights cannot be read, or tensors are missing or unexpected.
        """
        load_all_weights(checkpoint, self.model, hint=EARLIER)
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the random state. With a `PackedStream` this is deferred: creating its iterator changes the state."""
        if isinstance(self.train_dataset, PackedStream):
            self._rng_from = checkpoint
        else:
            self._restore_random_state(checkpoint)

    def _restore_random_state(self, checkpoint: str | None) -> None:
        self._has_random_state, part = True, self._data_part()
        if checkpoint is not None and has_same_parts(Path(checkpoint), part):
            super()._load_rng_state(checkpoint)
        elif part.count > 1:
            begin_random_state(self.args.seed, part, self.state.global_step)

    def _save_rng_state(self, output_dir: str) -> None:
        self.accelerator.wait_for_everyone()  # saving the model replaces the directory
        super()._save_rng_state(output_dir)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch the batches of a step, then restore or begin the random state: creating an iterator changes it."""
        batches = super().get_batch_samples(*args, **kwargs)
        checkpoint, self._rng_from = self._rng_from, None
        if checkpoint is not None or not self._has_random_state:
            self._restore_random_state(checkpoint)
        return batches

    def _has_named_state(self, checkpoint: Path) -> bool:
        return has_named_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self._has_named_state(Path(checkpoint)):
            load_optimizer(self.accelerator.unwrap_model(self.model), self.optimizer, Path(checkpoint))
            load_schedule(self.lr_scheduler, Path(checkpoint))
            return
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
            problem = f"the state of the optimizer or of the schedule cannot be loaded: {first_line(error)}"
            raise CheckpointError(problem, file=checkpoint, hint=EARLIER) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_all_weights(resume_from_checkpoint, model or self.model, hint=EARLIER)


def last_step(checkpoint: Path) -> int:
    """Return the number of the optimizer step after which a checkpoint was saved."""
    step: int = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step
    return step
