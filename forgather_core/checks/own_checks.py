"""Forgather's own checks."""

from ..definitions.check import Check
from .adapters import adapters
from .attention_backends import attention_backends
from .attention_cost import attention_cost
from .batch_invariance import batch_invariance
from .buffers import buffers
from .cache_size import cache_size
from .call_agreement import call_agreement
from .call_state import call_state
from .causality import causality
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
from .other_implementation import other_implementation
from .other_options import other_options
from .packing_isolation import packing_isolation
from .padding import padding
from .parallel_agreement import parallel_agreement
from .parallel_plans import parallel_plans
from .positions import positions
from .precision import precision
from .reference_parity import reference_parity
from .round_trip import round_trip
from .same_seed import same_seed
from .signal_propagation import signal_propagation
from .sliding_window import sliding_window
from .standalone import standalone
from .state_dict import state_dict
from .tokenizer import tokenizer
from .torch_compile import torch_compile

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
    parallel_agreement,
    no_dead_options,
    other_options,
    native_parity,
    reference_parity,
    other_implementation,
    init_std,
    estimates,
)
