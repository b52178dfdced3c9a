"""`verify`: checks that prove that a causal language model keeps its promises."""

from ..definitions.check import Check, DoesNotApply, Measured, check, expect
from .against_reference import equations, spreads
from .attention_agreement import attention_agreement
from .buffers import buffers
from .caching import caching
from .causality import causality
from .checkpointing import checkpointing
from .compiling import compiling
from .depth import depth
from .embeddings import embeddings
from .estimates import estimates
from .generation import generation
from .gradients import gradients
from .initial_weights import initial_weights
from .labels import labels
from .manifest import manifest
from .native_twin import native_twin
from .options_matter import options_matter
from .outputs import outputs
from .packing import packing
from .padding import padding
from .positions import positions
from .precision import precision
from .round_trip import round_trip
from .rows import rows
from .run import FAILED, PASSED, SKIPPED, asked_for, choose, try_check, verify, verify_settings
from .seeds import same_seed
from .standalone import standalone
from .subject import ModelUnderTest
from .windows import window

# What a token sees; what is computed of it; what training needs; what is written and read; what was promised in words.
CHECKS: tuple[Check, ...] = (
    causality,
    window,
    packing,
    padding,
    rows,
    positions,
    attention_agreement,
    caching,
    generation,
    embeddings,
    outputs,
    labels,
    gradients,
    checkpointing,
    precision,
    compiling,
    initial_weights,
    depth,
    same_seed,
    buffers,
    round_trip,
    standalone,
    manifest,
    options_matter,
    native_twin,
    equations,
    spreads,
    estimates,
)

__all__ = [
    "CHECKS",
    "FAILED",
    "PASSED",
    "SKIPPED",
    "Check",
    "DoesNotApply",
    "Measured",
    "ModelUnderTest",
    "asked_for",
    "check",
    "choose",
    "expect",
    "try_check",
    "verify",
    "verify_settings",
]
