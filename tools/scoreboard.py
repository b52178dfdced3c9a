"""Verify every type of causal language model of the installed transformers.

    python tools/scoreboard.py [TYPE ...] [--seeds 1] [--all] [--seconds 900] [--jobs 2] [--json FILE]

Each type gets a directory with its default configuration, with the changes of `DEFAULTS`, and is verified as a small
copy with fresh weights, in a process of its own with a time limit. A type from whose configuration no model can be
built is one line. Exit code 1 if a check fails or a process dies.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one check after the other; several types run at once

from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, __version__

from forgather_core.checks import CHECKS, choose, verify
from forgather_core.checks.shared.scope import Scope
from forgather_core.errors import ForgatherError, first_line
from forgather_core.runtime.child_process import ChildDiedError, ChildProcesses
from forgather_core.runtime.quiet import quiet_transformers

# Values of types whose default configuration builds no model, one that is not causal, or one without checkpoints.
DEFAULTS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {  # as in its checkpoints
        "attn_config": {"rope_theta": 500000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 2048, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1},
    # Scores that are not divided by the root of the head size amplify rounding errors; no checkpoint has this default.
    "granite": {"attention_multiplier": 0.125},
    "granite_swa": {"attention_multiplier": 0.125},
    "granitemoe": {"attention_multiplier": 0.125},
    "granitemoe_swa": {"attention_multiplier": 0.125},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 16, "attention_multiplier": 0.125},
    "granitemoeshared": {"attention_multiplier": 0.125},
    # The depth is a product of the others.
    "hrm_text": {"num_layers_per_stack": 1, "H_cycles": 1, "L_cycles": 2, "num_hidden_layers": 3},
    "hunyuan_v1_dense": {"head_dim": 128},
    # The renormalized weight of one expert is constant.
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 8, "moe_topk": 2},
    "ministral": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"] * 8, "num_hidden_layers": 24},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 32,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 128,
        "indexer_budget": 2048,
        "indexer_compress_ratio": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25},
    },
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
    "xmod": {"default_language": "en_XX"},
}
# Types to which the promises do not apply: the reason.
OTHERS = {
    "reformer": "it hashes keys at random, so that two calls differ, and in training a text must fill its chunks",
}
BUILT, UNBUILT, DIED = "built", "no model", "died"


@dataclass
class Result:
    """The result of one type.

    Attributes:
        kind: The model type.
        seed: The seed of weights and texts.
        outcome: "built" (then the checks ran), "no model" or "died".
        reason: Why there are no results.
        checks: Name of a check -> "passed", "failed" or "skipped".
        failures: Name of a check -> its first failures, as text.
        skipped: Name of a check -> the reason.
        seconds: Wall time.
    """

    kind: str
    seed: int
    outcome: str
    reason: str | None = None
    checks: dict[str, str] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def model_types() -> list[str]:
    """Return the types of text models that transformers builds with `AutoModelForCausalLM`.

    Types with images or sounds are left out, and draft models, which need another model's states; the text models
    within them are types of their own.
    """
    types = {config.model_type: config for config in MODEL_FOR_CAUSAL_LM_MAPPING}
    return sorted(kind for kind, config in types.items() if not _is_part(kind, config))


def _is_part(kind: str, config: type) -> bool:
    parts = getattr(config, "sub_configs", {})
    return any(re.search(r"vision|audio|text|decoder|vq", name) for name in parts) or kind.endswith("_assistant")


def write_directory(kind: str, directory: Path) -> None:
    """Write the configuration of a type."""
    made = CONFIG_MAPPING[kind]
    values = dict(DEFAULTS.get(kind, {}))
    config = made(**values)
    if getattr(config, "is_decoder", True) is False:
        config = made(**values, is_decoder=True)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[made]
    config.architectures = [(model[0] if isinstance(model, tuple) else model).__name__]
    config.save_pretrained(directory)


def try_type(task: tuple[str, int, bool]) -> Result:
    """Verify a type with one seed."""
    kind, seed, quick = task
    began = time.perf_counter()
    if kind in OTHERS:
        return Result(kind, seed, UNBUILT, OTHERS[kind])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"), quiet_transformers():
        directory = Path(folder) / re.sub(r"\W", "_", f"transformers_{kind}")
        try:
            write_directory(kind, directory)
        except Exception as error:  # the default configuration of a class may be invalid
            return Result(kind, seed, UNBUILT, f"{type(error).__name__}: {first_line(error)}", seconds=_since(began))
        try:
            report = verify(directory, choose(CHECKS, quick=quick), seed=seed, scope=Scope(quick=quick))
        except ForgatherError as error:
            return Result(kind, seed, UNBUILT, str(error), seconds=_since(began))
        except Exception as error:
            return Result(kind, seed, DIED, f"{type(error).__name__}: {first_line(error)}", seconds=_since(began))
    if any(row["reason"].startswith("the model cannot be built") for row in report["checks"] if row["reason"]):
        reason = next((row["reason"] for row in report["checks"] if row["result"] == "failed" and row["reason"]), None)
        return Result(kind, seed, UNBUILT, reason, seconds=_since(began))
    result = Result(kind, seed, BUILT, seconds=_since(began))
    for row in report["checks"]:
        result.checks[row["name"]] = row["result"]
        if row["result"] == "failed":
            texts = [case["failure"] or case["what"] for case in row["measured"] if not case["holds"]]
            result.failures[row["name"]] = ([row["reason"]] if row["reason"] else []) + texts[:3]
        elif row["result"] == "skipped":
            result.skipped[row["name"]] = row["reason"]
    return result


def _since(began: float) -> float:
    return time.perf_counter() - began


def results(tasks: list[tuple[str, int, bool]], *, jobs: int, seconds: float) -> Iterator[Result]:
    """Yield the result of each task when it ends."""
    with ChildProcesses(try_type, count=jobs, seconds=seconds, single_use=True) as run:
        for (kind, seed, _), result in run.as_completed(tasks):
            yield Result(kind, seed, DIED, str(result)) if isinstance(result, ChildDiedError) else result


def write_json(file: Path, found: list[Result]) -> None:
    """Write results as JSON."""
    file.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Run the types, print the results, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="model types (default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="run slow checks, too")
    parser.add_argument("--seconds", type=float, default=900, help="time limit of a type (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="types at once (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results as JSON")
    arguments = parser.parse_args()
    tasks = [
        (kind, seed, not arguments.all) for seed in range(arguments.seeds) for kind in arguments.types or model_types()
    ]
    found: list[Result] = []
    for result in results(tasks, jobs=arguments.jobs, seconds=arguments.seconds):
        found.append(result)
        if arguments.json:  # at once: a run takes many minutes
            write_json(arguments.json, found)
        failed = ", ".join(result.failures) or result.reason or "passed"
        print(f"{result.kind} (seed {result.seed}, {result.seconds:.0f} s): {failed}", flush=True)
    red = sum(bool(one.failures) or one.outcome == DIED for one in found)
    built = sum(one.outcome == BUILT for one in found)
    print(f"transformers {__version__}: {len(found)} runs, {built} built, {red} with failures")
    return int(red > 0)


if __name__ == "__main__":
    sys.exit(main())
