"""Train a model: from a resolved model to a trained model directory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PrinterCallback

from ..checkpoint import save_checkpoint
from ..checkpoint.write.steps import CHECKPOINTS
from ..commands.construct import ConstructedModel, ProgressCallbacks, construct
from ..data.held_out import Split, split_corpus
from ..data.packed_stream import PackedStream
from ..data.projects import open_corpus
from ..errors import DataError
from ..estimate import known_device
from ..filesystem.locks import directory_lock
from ..options.train_options import TrainOptions
from ..runtime.quiet import quiet_transformers
from ..settings.resolved_model import ResolvedModel
from ..tokenizers.lookup import LoadedTokenizer, load_tokenizer
from ..training.combined_optimizer import training_optimizer
from ..training.preconditions import check_trainable
from .arguments import training_arguments
from .conditions import check_supported, check_train_options, plain
from .cost import Cost, disk_of, measured_seconds, refuse_if_too_large, traced_cost
from .evaluation import HeldOut, held_out_batches
from .plan import Plan, plan_of
from .processes import run_processes
from .record import write_record
from .resume import checkpoint_to_resume, read_position, refuse_changed_data
from .sampling import continuations
from .sharded_trainer import ShardedTrainer
from .trainer import Trainer, last_step
from .watch import TrainingCallback, TrainingRecord

_SAMPLES, _PROMPT, _CONTINUATION = 3, 16, 64  # samples at the end; tokens of their prompts and continuations


@dataclass(frozen=True, kw_only=True)
class TrainingCallbacks:
    """Callbacks of a training run; each is optional.

    Args:
        construct: The callbacks of `construct`.
        begin: Called before the first step with the report so far: setup, data and cost.
        record: Called with the measurements of each logged step.
        evaluation: Called with the number of a step and the metrics of its evaluation.
    """

    construct: ProgressCallbacks = field(default_factory=ProgressCallbacks)
    begin: Callable[[dict[str, Any]], None] | None = None
    record: Callable[[TrainingRecord], None] | None = None
    evaluation: Callable[[int, dict[str, float]], None] | None = None


def run_training(
    resolved: ResolvedModel,
    options: TrainOptions,
    *,
    project: Path | None = None,
    refresh: bool = False,
    keep: bool = False,
    force: bool = False,
    callbacks: TrainingCallbacks = TrainingCallbacks(),
) -> dict[str, Any]:
    """Train a model, and save it in its directory.

    Checkpoints are in `checkpoints/checkpoint-N` of the directory. At the end, the directory has the final weights and
    `train.json`: options, versions, losses.

    Args:
        resolved: The resolved model. Without a device, the first one of this machine is used.
        options: The options of the run.
        project: The project directory, which contains `output_models`; None uses that of the model.
        refresh, keep: See `construct`.
        force: Train even if memory or disk space seems insufficient, or if the loss does not fall.
        callbacks: Progress callbacks.

    Returns:
        The report as plain data: model_name, setup, plan, data, cost, steps, evaluations, final, samples, notes.

    Raises:
        BuildError: The weights would be uninitialized, or the attention implementation cannot be trained.
        TrainingError: The run does not fit or cannot continue; or a loss or a gradient is not finite, or the loss does
            not fall. The last checkpoint is complete.
        DataError: The data cannot be read, or there is none.
        CheckpointError: A checkpoint cannot be saved; the last one is complete.
    """
    check_train_options(options)
    assert options.dataset_project is not None
    resolved, processes = run_processes(resolved)
    check_supported(resolved, options, processes.sizes, sharded=processes.mesh is not None)
    plan = plan_of(options, torch.device(resolved.build.device), processes.sizes.data)
    mesh = replace(processes.mesh, bf16=plan.bf16) if processes.mesh is not None else None
    split = split_corpus(open_corpus(options.dataset_project, options.dataset_config), options.eval_fraction)
    target = resolved.target(project).resolve()
    lock_problem = f"another run trains in {target}"
    lock_target = target.with_name(f"{target.name}.train")
    exclusive = directory_lock(lock_target, held=lock_problem) if processes.is_first else None
    # Locked and checked before the directory is constructed, which may rebuild it.
    with exclusive or nullcontext(), quiet_transformers():
        latest = checkpoint_to_resume(target, options, resolved, plan)
        check_trainable(resolved, has_checkpoint=latest is not None)
        in_turn = nullcontext() if mesh is not None else processes.state.main_process_first()
        with in_turn:
            made = construct(
                resolved,
                project=project,
                refresh=refresh,
                keep=keep,
                callbacks=callbacks.construct,
                force=force,
                mesh=mesh,
            )
        checkpoints = made.directory.path.resolve() / CHECKPOINTS
        run = _Run(made, options, plan, split, latest, load_tokenizer(str(made.directory.path), option=None))
        if latest is not None:
            refuse_changed_data(made.directory.path, run.held_out)
        cost = run.cost(refuse=not force)
        report = run.begin(cost)
        if processes.is_first:
            write_record(made.directory.path, report)
            if callbacks.begin is not None:
                callbacks.begin(report)
        return run.train(report, checkpoints, cost, callbacks, stop=not force)


class _Run:
    """A training run: its model, tokenizer and data, and the steps from its cost to its report."""

    def __init__(
        self,
        made: ConstructedModel,
        options: TrainOptions,
        plan: Plan,
        split: Split,
        latest: Path | None,
        loaded: LoadedTokenizer,
    ) -> None:
        self.made, self.options, self.plan, self.split, self.latest = made, options, plan, split, latest
        model: Any = made.model
        self.model, self.tokenizer = model, loaded.tokenizer
        facts = loaded.facts
        vocabulary: int = model.config.vocab_size
        if facts.vocab_size > vocabulary:
            problem = f"has {facts.vocab_size} entries, but the model's vocab_size is {vocabulary}"
            raise DataError(problem, option="--tokenizer", hint="use another tokenizer, or increase --vocab-size")
        self.pad_id = facts.pad_token_id if facts.pad_token_id is not None else 0
        self.held_out: HeldOut = held_out_batches(
            split.held_out,
            self.tokenizer,
            options.batch_size,
            options.sequence_length,
            tokens=plan.eval_tokens,
            pad_id=self.pad_id,
        )

    def stream(self, position: dict[str, Any] | None = None) -> PackedStream:
        return PackedStream(
            self.split.training,
            self.tokenizer,
            self.plan.rows,
            self.options.sequence_length,
            strategy=self.options.packing,
            pad_id=self.pad_id,
            position=position,
        )

    def cost(self, *, refuse: bool) -> Cost:
        """Return the cost; with `refuse`, raise TrainingError if the run does not fit into memory or on the disk."""
        directory, mesh = self.made.directory.path, self.made.mesh
        peak, flops = traced_cost(self.made.resolved, self.options, self.plan, directory)
        disk = disk_of(self.model, self.options, self.plan)
        if refuse:
            refuse_if_too_large(peak, disk, next(self.model.parameters()).device, directory, mesh)
        seconds = measured_seconds(self.model, iter(self.stream()), self.options, self.plan)
        return Cost(seconds, peak.bytes if peak is not None and mesh is None else None, disk, flops)

    def begin(self, cost: Cost) -> dict[str, Any]:
        """Return the report before the first step."""
        device = next(self.model.parameters()).device
        held_out = asdict(self.held_out)
        del held_out["batches"]
        return {
            "model_name": self.made.resolved.model_name,
            "directory": str(self.made.directory.path),
            "setup": {
                "device": str(device),
                "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "seed": self.made.resolved.build.seed,
                "dtype": self.made.resolved.build.dtype,
                "attn_implementation": self.made.resolved.build.attn_implementation,
                "process": PartialState().process_index,
                "continued_from": str(self.latest) if self.latest is not None else None,
            },
            "options": {name: plain(value) for name, value in asdict(self.options).items()},
            "plan": self.plan.to_dict(),
            "data": {"training": self.split.training.name, "held_out": held_out},
            "cost": cost.to_dict(),
            "versions": {name: version(name) for name in ("forgather", "torch", "transformers", "accelerate")},
            "steps": [],
            "evaluations": [],
            "final": None,
            "samples": [],
            "notes": [*self.made.directory.notes, *([self.split.note] if self.split.note else [])],
        }

    def train(
        self, report: dict[str, Any], checkpoints: Path, cost: Cost, callbacks: TrainingCallbacks, *, stop: bool
    ) -> dict[str, Any]:
        """Train, save the final weights, and return the complete report."""
        build = self.made.resolved.build
        device = next(self.model.parameters()).device
        arguments = training_arguments(self.options, self.plan, checkpoints, device=device, seed=build.seed)
        known = known_device(device)
        peak = known.flops_in("bf16" if self.plan.bf16 else "fp32") if known is not None else None
        callback = TrainingCallback(
            self.plan.tokens_per_step,
            on_record=callbacks.record,
            on_evaluation=callbacks.evaluation,
            peak_flops=peak * PartialState().num_processes if peak is not None else None,
            flops_per_token=cost.flops_per_token,
            stop=stop,
            falls=build.load_from_checkpoint is None,  # the loss of a trained model may be at its plateau
        )
        position = read_position(self.latest) if self.latest else None
        optimizer = training_optimizer(
            self.options.optimizer,
            self.model,
            lr=self.plan.lr,
            weight_decay=self.options.weight_decay,
            in_backward=self.options.fuse_optim_with_backward,
        )
        mesh = self.made.mesh
        trainer = (Trainer if mesh is None else partial(ShardedTrainer, mesh=mesh))(
            model=self.model,
            args=arguments,
            train_dataset=self.stream(position),
            eval_dataset=self.held_out,
            processing_class=self.tokenizer,
            optimizers=(optimizer, None),
            callbacks=[callback],
            full_logits=self.options.full_logits,
        )
        trainer.remove_callback(PrinterCallback)  # the callbacks of the run report instead
        if self.latest is None or last_step(self.latest) < self.plan.steps:
            trainer.train(resume_from_checkpoint=str(self.latest) if self.latest is not None else None)
        else:  # interrupted between the last checkpoint and the final weights
            trainer.take_over(self.latest)
            callback.on_train_begin(arguments, trainer.state, trainer.control, model=self.model)
        best, evaluations = trainer.best_checkpoint, callback.evaluations
        final = {
            "loss": evaluations[-1]["loss"] if evaluations else None,
            "bits_per_byte": evaluations[-1]["bits_per_byte"] if evaluations else None,
            "best_checkpoint": str(best) if best is not None else None,
            "seconds": callback.records[-1].seconds if callback.records else 0.0,
        }
        report |= {
            "steps": [record.to_dict() for record in callback.records],
            "evaluations": evaluations,
            "final": final,
        }
        first = trainer.is_world_process_zero()
        if first or mesh is not None:  # the processes of a mesh save and generate together
            model = trainer.accelerator.unwrap_model(trainer.model)
            save_checkpoint(self.made.directory.path, model, safetensors=True)
            report["samples"] = self._samples(model)
        if first:
            write_record(self.made.directory.path, report)
        trainer.accelerator.wait_for_everyone()
        return report

    def _samples(self, model: Any) -> list[dict[str, str]]:
        prompts: list[list[int]] = []
        for batch in self.held_out.batches:
            for row in batch.inputs["input_ids"][: _SAMPLES - len(prompts)]:
                prompts.append(row[:_PROMPT].tolist())
        prompts = prompts[:_SAMPLES]
        seed = self.made.resolved.build.seed
        return continuations(model, self.tokenizer, prompts, max_new_tokens=_CONTINUATION, seed=seed)
