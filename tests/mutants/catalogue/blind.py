"""Mistakes by other authors, who saw the sources of exported models only; docs/mutants.md has the first results.

The sets have more: those that a check found before its authors' mistakes were known, and one that no check finds.
"""

from __future__ import annotations

import json
from pathlib import Path

from .mutant import Mutant

FOLDER = Path(__file__).parent.parent / "blind"
FILES = (FOLDER / "first_set.json", FOLDER / "second_set.json")
# By check: the names of the mistakes that it finds.
FOUND_BY = {
    "adapters": (
        "chunked-loss-skips-adapters",
        "chunked-loss-with-subclassed-head",
        "feed-forward-bypasses-projections",
        "input-cast-to-weight-dtype",
        "projections-bypass-modules",
    ),
    "attention-backends": ("flash-documents-end-of-first-row",),
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
        "hidden-threshold-beyond-half",
        "inference-mode-version-counter",
        "layer-input-by-keyword",
        "one-token-documents-merged",
        "packed-continuation-sees-all-documents",
        "query-without-own-key",
        "restart-after-one-token-missed",
        "rope-angles-under-autocast",
        "unpicklable-identity-dropout",
    ),
    "call-state": (
        "checkpointing-writes-use-cache-to-config",
        "in-place-norm-without-gradients",
        "inplace-embedding-dropout",
    ),
    "config-fields": (
        "caller-rope-dict-modified",
        "native-config-defaults-win",
        "native-defaults-override-file",
        "old-rope-theta-blocked-by-default",
        "old-rope-theta-overridden",
        "window-switch-saved-as-off",
    ),
    "gradient-checkpointing": ("residual-overwritten-without-grad",),
    "gradients": (
        "bias-shared-between-layers",
        "key-through-query-norm",
    ),
    "initial-weights": (
        "padding-row-within-each-run",
        "piece-seed-without-piece",
        "pieces-share-their-seed",
    ),
    "loss": (
        "chunked-loss-drops-upstream-gradient",
        "chunked-loss-ignores-upstream-gradient",
        "chunks-summed-in-low-precision",
        "evaluation-collects-cache",
        "evaluation-keeps-cache",
        "labels-shifted-after-flattening",
        "own-loss-ignored-by-chunked-loss",
    ),
    "no-dead-options": ("explicit-head-size-overwritten",),
    "other-options": (
        "eager-repeats-heads-in-wrong-order",
        "fixed-slopes-trainable-after-load",
        "sliding-cache-offset-lost-in-alibi",
    ),
    "padding": ("padding-looked-up-in-first-column",),
    "parallel-plans": (
        "base-class-not-to-split",
        "head-norms-not-reduced",
        "later-stage-prepares-again",
        "no-split-modules-of-another-model",
    ),
    "precision": (
        "config-dtype-ignored",
        "positions-in-model-dtype",
        "rope-angles-by-matrix-product",
        "rope-matmul-under-autocast",
    ),
    "round-trip": (
        "classifier-registered-as-automodel",
        "slopes-in-default-dtype",
        "tie-source-and-target-swapped",
        "tie-turned-around",
    ),
    "same-seed": (
        "attention-dropout-in-evaluation",
        "draw-in-parameter-dtype",
        "nested-shard-offset-lost",
        "reinitialization-reuses-first-seed",
        "shard-offset-lost",
    ),
    "standalone": (
        "builtin-hash-for-piece-seed",
        "process-salted-piece-seed",
    ),
    "state-dict": (
        "fp32-slopes-as-new-parameter",
        "load-state-dict-drops-assign",
        "missing-weights-accepted",
    ),
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
        "hidden-threshold-beyond-half",
        "query-without-own-key",
        "attention-function-remembered",
        "attention-function-remembered-llama",
        "layer-input-by-keyword",
        "rope-angles-under-autocast",
        "unpicklable-identity-dropout",
    }
)
# call-agreement does not find these, with all levels.
BEYOND_CALLS = frozenset(
    {
        "cache-without-window",
        "classifier-registered-as-automodel",
        "eager-repeats-heads-in-wrong-order",
        "flash-documents-end-of-first-row",
        "old-rope-theta-overridden",
        "padding-looked-up-in-first-column",
        "projections-bypass-modules",
        "slopes-restored-after-rounding",
    }
)
_CHECKS = {name: check for check, names in FOUND_BY.items() for name in names}
MUTANTS = [
    Mutant(
        check=_CHECKS[entry["name"]],
        quick=entry["name"] not in NOT_QUICK,
        beyond_calls=entry["name"] in BEYOND_CALLS,
        **{key: entry[key] for key in ("name", "definition", "file", "old", "new", "mistake")},
    )
    for file in FILES
    for entry in json.loads(file.read_text(encoding="utf-8"))
    if entry["name"] in _CHECKS
]
