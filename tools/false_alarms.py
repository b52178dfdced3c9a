"""Verify every built-in definition and transformers' own models with many seeds: no check may fail.

    python tools/false_alarms.py [--seeds 20] [--first 0] [--all] [--checks call-agreement,...]

Prints the failures, and for each check the largest error relative to its tolerance. Exit code 1 if a check failed.
Without `--all`, checks that do not depend on a seed (files, separate processes, compilation) are skipped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers

from forgather_core.checks import CHECKS, choose, verify
from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

UNSEEDED = {"manifest", "estimates", "standalone", "torch-compile"}
SIZES: dict[str, Any] = {
    "vocab_size": 2000, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 4, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip
NATIVE: dict[str, dict[str, Any]] = {
    "Llama": SIZES,
    "Mistral": SIZES | {"sliding_window": 64},
    "Qwen3": SIZES | {"head_dim": 64},
    "GPT2": {"vocab_size": 2000, "n_embd": 256, "n_layer": 6, "n_head": 8, "bos_token_id": 0, "eos_token_id": 2},
}


def directories(workdir: Path) -> dict[str, tuple[Path, Any]]:
    """Write a directory of each model, and return it with its resolved model, None for transformers' models."""
    models: dict[str, tuple[Path, Any]] = {}
    for definition in registry().definitions():
        resolved = resolve(
            find_configuration(definition.name, registry(), workdir), {"output_dir": workdir / definition.name}
        )
        models[definition.name] = (construct(resolved).directory.path, resolved)
    for name, options in NATIVE.items():
        config = getattr(transformers, f"{name}Config")(**options)
        config.architectures = [f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"]
        config.save_pretrained(workdir / f"native_{name}")
        models[f"transformers' {name}"] = (workdir / f"native_{name}", None)
    return models


def main() -> int:
    """Print the table, and return the exit code: 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="first seed (default: %(default)s)")
    parser.add_argument(
        "--all", action="store_true", help="run all checks, including those that do not depend on a seed"
    )
    parser.add_argument("--checks", default="", help="names of checks, separated by commas; run these only")
    arguments = parser.parse_args()
    names = [name for name in arguments.checks.split(",") if name]
    chosen = [check for check in choose(CHECKS, names) if names or arguments.all or check.name not in UNSEEDED]
    largest: dict[str, tuple[float, str]] = {}
    failed = 0
    with tempfile.TemporaryDirectory() as workdir:
        models = directories(Path(workdir))
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            for name, (directory, resolved) in models.items():
                for row in verify(directory, chosen, resolved=resolved, seed=seed)["checks"]:
                    if row["result"] == "failed":
                        failed += 1
                        failures = [case for case in row["measured"] if not case["holds"]]
                        print(f"FAILED: {name}, seed {seed}, {row['name']}: {row['reason'] or failures}", flush=True)
                    for case in row["measured"]:
                        if case["tolerance"]:
                            ratio = case["error"] / case["tolerance"]
                            largest[row["name"]] = max(
                                largest.get(row["name"], (0.0, "")), (ratio, f"{name}: {case['what']}")
                            )
            print(f"seed {seed}: {failed} failures so far", file=sys.stderr, flush=True)
    for check, (ratio, case) in sorted(largest.items(), key=lambda item: -item[1][0]):
        print(f"{check:24}{ratio:6.2f} x its tolerance ({case})")
    print(f"{failed} failures: {len(models)} models, {len(chosen)} checks, {arguments.seeds} seeds")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
