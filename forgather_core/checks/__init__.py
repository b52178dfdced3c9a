"""`verify`: checks that a causal language model keeps its promises, one file for each check."""

from ..definitions.check import OLD_NAMES, Check, DoesNotApply, Measured, check, expect
from ..deprecated import keep_old_names, moved_module
from .adapters import adapters
from .attention_backends import attention_backends
from .attention_cost import attention_cost
from .batch_invariance import batch_invariance
from .buffers import buffers
from .cache_size import cache_size
from .call_agreement import call_agreement
from .call_state import call_state
from .causality import causality
from .choose import choose, requested_checks, requested_scope
from .config_fields import config_fields
from .continuous_batching import continuous_batching
from .dropout import dropout
from .estimates import estimates
from .generation import generation
from .gradient_checkpointing import gradient_checkpointing
from .gradients import gradients
from .hidden_states import hidden_states
from .imports import imports
from .init_std import init_std
from .initial_weights import initial_weights
from .inputs_embeds import inputs_embeds
from .kv_cache import kv_cache
from .loss import loss
from .manifest import manifest
from .native_parity import native_parity
from .no_dead_options import no_dead_options
from .other_options import other_options
from .packing_isolation import packing_isolation
from .padding import padding
from .parallel_plans import parallel_plans
from .positions import positions
from .precision import precision
from .reference_parity import reference_parity
from .round_trip import round_trip
from .run import verify, verify_settings
from .same_seed import same_seed
from .shared.model_under_test import ModelUnderTest
from .signal_propagation import signal_propagation
from .sliding_window import sliding_window
from .standalone import standalone
from .state_dict import state_dict
from .tokenizer import tokenizer
from .torch_compile import torch_compile
from .try_check import EXPECTED, FAILED, PASSED, SKIPPED, try_check

# Masks and positions; caches and inputs; training; initialization; files; comparisons with other implementations.
CHECKS: tuple[Check, ...] = (
    causality,
    sliding_window,
    packing_isolation,
    padding,
    batch_invariance,
    positions,
    attention_backends,
    call_agreement,
    call_state,
    kv_cache,
    cache_size,
    attention_cost,
    generation,
    continuous_batching,
    inputs_embeds,
    hidden_states,
    adapters,
    loss,
    gradients,
    gradient_checkpointing,
    dropout,
    precision,
    torch_compile,
    initial_weights,
    signal_propagation,
    same_seed,
    buffers,
    state_dict,
    round_trip,
    config_fields,
    tokenizer,
    imports,
    standalone,
    manifest,
    parallel_plans,
    no_dead_options,
    other_options,
    native_parity,
    reference_parity,
    init_std,
    estimates,
)

__all__ = [
    "CHECKS",
    "EXPECTED",
    "FAILED",
    "PASSED",
    "SKIPPED",
    "Check",
    "DoesNotApply",
    "Measured",
    "ModelUnderTest",
    "check",
    "choose",
    "expect",
    "requested_checks",
    "requested_scope",
    "try_check",
    "verify",
    "verify_settings",
]

keep_old_names(__name__, {"Subject": "ModelUnderTest", "asked_for": "requested_checks", "must": "expect"})
moved_module(f"{__name__}.check", check.__module__, OLD_NAMES)
moved_module(
    f"{__name__}.subject",
    ModelUnderTest.__module__,
    {"Subject": "ModelUnderTest", "strengthen": "randomize_weights"},
)
