"""The plan of a training run: steps, batch sizes, learning rate and intervals, computed from its options."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..errors import ConfigurationError
from ..options.train_options import TrainOptions

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_LR = {"adamw": 1e-3, "muon": 1e-3, "sgd": 0.1}
_EVALUATIONS, _LOGGED_STEPS = 10, 100  # defaults for a whole run
MIN_LR = 0.1  # fraction of the peak learning rate at the end of cosine (arXiv:2203.15556, app. B)
DECAY = 0.2  # fraction of the steps that decay, in wsd (arXiv:2404.06395, sec. 4)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps, batch sizes, learning rate and intervals of a training run.

    Args:
        steps: Optimizer steps.
        processes: Processes of data parallelism.
        rows: Rows per step, of all processes and accumulation steps.
        tokens_per_step: Positions per step.
        lr: Peak learning rate.
        warmup_steps: Steps with a rising learning rate.
        decay_steps: With the schedule `wsd`, steps with a falling learning rate.
        eval_every, save_every, log_every: Steps between evaluations, checkpoints and logged steps.
        eval_tokens: Number of held-out tokens in an evaluation.
        bf16: Whether matrix products are computed in bfloat16.
    """

    steps: int
    processes: int
    rows: int
    tokens_per_step: int
    lr: float
    warmup_steps: int
    decay_steps: int
    eval_every: int
    save_every: int
    log_every: int
    eval_tokens: int
    bf16: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)


def plan_of(options: TrainOptions, device: torch.device, processes: int = 1) -> Plan:
    """Return the plan of a training run.

    Raises:
        ConfigurationError: A number of tokens is invalid, the warmup is too long for the schedule, or the device does
            not support bfloat16.
    """
    tokens = token_count(options.tokens, "--tokens")
    rows = options.batch_size * options.gradient_accumulation_steps * processes
    tokens_per_step = rows * options.sequence_length
    steps = max(1, round(tokens / tokens_per_step))
    every = max(1, steps // _EVALUATIONS)
    if options.schedule == "wsd" and options.warmup > 1 - DECAY:
        problem = f"must be at most {1 - DECAY:g} with --schedule wsd, whose last fifth is the decay"
        raise ConfigurationError(f"{problem}; got {options.warmup}", option="--warmup")
    return Plan(
        steps=steps,
        processes=processes,
        rows=rows,
        tokens_per_step=tokens_per_step,
        lr=options.lr if options.lr is not None else _LR[options.optimizer],
        warmup_steps=int(options.warmup * steps),
        decay_steps=int(DECAY * steps),
        eval_every=options.eval_every or every,
        save_every=options.save_every or options.eval_every or every,
        log_every=options.log_every or max(1, steps // _LOGGED_STEPS),
        eval_tokens=token_count(options.eval_tokens, "--eval-tokens"),
        bf16=_bf16(options.mixed_precision, device),
    )


def token_count(text: str, option: str) -> int:
    """Parse a number of tokens such as "500k" or "1.5B".

    Args:
        text: The number, with the suffix k, M, B or T (a factor of 1000 each), or without one.
        option: The option that errors name.

    Raises:
        ConfigurationError: The text is not a positive number of tokens.
    """
    match = re.fullmatch(r"(\d{1,15}(?:_\d{1,3}){0,5}(?:\.\d{1,9})?)([kmbt]?)", str(text).strip().lower())
    count = int(float(match[1].replace("_", "")) * _UNITS[match[2]]) if match else 0
    if count < 1:
        raise ConfigurationError(f"expected a number of tokens such as 500k, 10M or 2B, got {text!r}", option=option)
    return count


def _bf16(chosen: str, device: torch.device) -> bool:
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if chosen == "bf16" and device.type == "cuda" and not supported:
        problem = "bf16 requires a GPU that supports bfloat16"
        raise ConfigurationError(problem, option="--mixed-precision", hint="use --mixed-precision no")
    return supported if chosen == "auto" else chosen == "bf16"
