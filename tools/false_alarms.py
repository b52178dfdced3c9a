"""Verify every built-in definition and transformers' own models with many seeds: nothing may fail.

    python tools/false_alarms.py [--seeds 20] [--first 0] [--all]

Prints the failures, and for each check the largest error relative to its tolerance. Exit code 1 if anything failed.
Without `--all` the checks that do not depend on a seed (files, separate processes, compilation) are left out.
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


def directories(place: Path) -> dict[str, tuple[Path, Any]]:
    """Return a directory of each model, and the settings of built-in definitions."""
    found: dict[str, tuple[Path, Any]] = {}
    for definition in registry().definitions():
        resolved = resolve(
            find_configuration(definition.name, registry(), place), {"output_dir": place / definition.name}
        )
        found[definition.name] = (construct(resolved).directory.path, resolved)
    for name, options in NATIVE.items():
        config = getattr(transformers, f"{name}Config")(**options)
        config.architectures = [f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"]
        config.save_pretrained(place / f"native_{name}")
        found[f"transformers' {name}"] = (place / f"native_{name}", None)
    return found


def main() -> int:
    """Print the table; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="first seed (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="run all checks")
    asked = parser.parse_args()
    chosen = [check for check in choose(CHECKS) if asked.all or check.name not in UNSEEDED]
    used: dict[str, tuple[float, str]] = {}
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        subjects = directories(Path(place))
        for seed in range(asked.first, asked.first + asked.seeds):
            for name, (directory, resolved) in subjects.items():
                for row in verify(directory, chosen, resolved=resolved, seed=seed)["checks"]:
                    if row["result"] == "failed":
                        failed += 1
                        wrong = [one for one in row["measured"] if not one["holds"]]
                        print(f"FAILED: {name}, seed {seed}, {row['name']}: {row['reason'] or wrong}", flush=True)
                    for one in row["measured"]:
                        if one["tolerance"]:
                            part = one["error"] / one["tolerance"]
                            used[row["name"]] = max(used.get(row["name"], (0.0, "")), (part, f"{name}: {one['what']}"))
            print(f"seed {seed}: {failed} failures so far", file=sys.stderr, flush=True)
    for check, (part, what) in sorted(used.items(), key=lambda item: -item[1][0]):
        print(f"{check:24}{part:6.2f} of its tolerance ({what})")
    print(f"{failed} failures: {len(subjects)} models, {len(chosen)} checks, {asked.seeds} seeds")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
