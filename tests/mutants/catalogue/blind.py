"""Mistakes by other authors, who saw the sources of exported models only; docs/mutants.md has the first results.

`tests/mutants/blind/first_set.json` has two more, which no check finds.
"""

from __future__ import annotations

import json
from pathlib import Path

from .mutant import Mutant

FILE = Path(__file__).parent.parent / "blind" / "first_set.json"
# By check: the names of the mistakes that it finds.
FOUND_BY = {
    "adapters": (
        "chunked-loss-skips-adapters",
        "chunked-loss-with-subclassed-head",
        "feed-forward-bypasses-projections",
        "projections-bypass-modules",
    ),
    "buffers": (
        "frequencies-undefined-after-to-empty",
        "longrope-frequencies-not-reset",
        "slopes-restored-after-rounding",
    ),
    "cache-size": ("cache-without-window",),
    "call-agreement": (
        "attention-function-remembered",
        "attention-function-remembered-llama",
        "checkpointing-drops-cache-without-grad",
        "checkpointing-drops-cache-without-gradients",
        "checkpointing-without-grad-check",
        "empty-cache-is-falsy",
        "empty-cache-is-replaced",
        "inference-mode-version-counter",
        "layer-input-by-keyword",
        "one-token-documents-merged",
        "packed-continuation-sees-all-documents",
        "restart-after-one-token-missed",
        "rope-angles-under-autocast",
        "unpicklable-identity-dropout",
    ),
    "call-state": ("checkpointing-writes-use-cache-to-config", "in-place-norm-without-gradients"),
    "config-fields": (
        "old-rope-theta-blocked-by-default",
        "old-rope-theta-overridden",
        "window-switch-saved-as-off",
    ),
    "gradient-checkpointing": ("residual-overwritten-without-grad",),
    "gradients": ("bias-shared-between-layers", "key-through-query-norm"),
    "initial-weights": ("padding-row-within-each-run",),
    "loss": (
        "chunked-loss-drops-upstream-gradient",
        "chunked-loss-ignores-upstream-gradient",
        "evaluation-collects-cache",
        "evaluation-keeps-cache",
        "labels-shifted-after-flattening",
    ),
    "no-dead-options": ("explicit-head-size-overwritten",),
    "other-options": ("sliding-cache-offset-lost-in-alibi",),
    "parallel-plans": (
        "base-class-not-to-split",
        "head-norms-not-reduced",
        "later-stage-prepares-again",
        "no-split-modules-of-another-model",
    ),
    "precision": ("positions-in-model-dtype",),
    "round-trip": ("slopes-in-default-dtype", "tie-source-and-target-swapped", "tie-turned-around"),
    "same-seed": ("attention-dropout-in-evaluation",),
    "standalone": ("builtin-hash-for-piece-seed", "process-salted-piece-seed"),
    "state-dict": ("load-state-dict-drops-assign", "missing-weights-accepted"),
    "tokenizer": (
        "bpe-dropout-left-on",
        "chat-token-eats-newline",
        "im-end-swallows-newline",
        "tokenizer-without-max-length",
    ),
    "torch-compile": (
        "packing-check-breaks-the-graph",
        "packing-ignored-when-compiling",
        "shortcut-on-mask-values",
    ),
}
# These show only in levels that a quick run does not have.
NOT_QUICK = frozenset(
    {
        "attention-function-remembered",
        "attention-function-remembered-llama",
        "layer-input-by-keyword",
        "rope-angles-under-autocast",
        "unpicklable-identity-dropout",
    }
)
_CHECKS = {name: check for check, names in FOUND_BY.items() for name in names}
MUTANTS = [
    Mutant(
        check=_CHECKS[entry["name"]],
        quick=entry["name"] not in NOT_QUICK,
        **{key: entry[key] for key in ("name", "definition", "file", "old", "new", "mistake")},
    )
    for entry in json.loads(FILE.read_text(encoding="utf-8"))
    if entry["name"] in _CHECKS
]
