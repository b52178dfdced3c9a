"""Options of rotary position embeddings (RoPE) and their validation. Standard library only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forgather_core.option import option
from forgather_core.parts.option_groups import OptionGroup

# Required (besides rope_theta) and optional parameters of each type of RoPE, with transformers' types and names.
ROPE_TYPES: dict[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": ({"factor"}, set()),
    "dynamic": ({"factor"}, set()),
    "yarn": (
        {"factor", "original_max_position_embeddings"},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
    "longrope": (
        {"short_factor", "long_factor", "original_max_position_embeddings"},
        {"attention_factor", "factor"},
    ),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}, set()),
}


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class RopeOptions(OptionGroup):
    """Rotary positions (arXiv:2104.09864), with transformers' scaled variants."""

    rope_parameters: dict[str, Any] = option(
        {"rope_type": "default", "rope_theta": 10000.0},
        help="RoPE parameters dict (rope_theta, rope_type, factor, etc.)",
    )
    max_position_embeddings: int | None = option(
        None, help="Longest sequence the model is designed for (from the tokenizer unless set)", ge=1
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that head_dim is even and that rope_parameters fit their type."""
        yield from super().problems()
        head_dim = self.derived()["head_dim"]
        if head_dim % 2:
            yield "head_dim", f"must be even for RoPE, got {head_dim}"
        yield from (("rope_parameters", problem) for problem in rope_problems(self.rope_parameters, head_dim))


def rope_problems(given: Mapping[str, Any], head_dim: int) -> Iterator[str]:
    """Yield a message for each invalid RoPE parameter."""
    kind = given.get("rope_type", "default")
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        yield f"rope_type must be one of {', '.join(ROPE_TYPES)}; got {kind!r}"
        return
    required, allowed = ROPE_TYPES[kind]
    required = required | {"rope_theta"}
    if missing := sorted(required - given.keys()):
        yield f"rope_type '{kind}' requires {', '.join(missing)}"
    if unknown := sorted(given.keys() - required - allowed - {"rope_type"}):
        yield f"rope_type '{kind}' does not support {', '.join(unknown)}"
    wrong = [problem for name, value in given.items() if (problem := _value_problem(name, value, head_dim))]
    yield from wrong
    if missing or wrong:
        return  # the checks below compare valid values
    if kind == "dynamic" and head_dim < 4:
        yield f"rope_type 'dynamic' requires a head_dim of 4 or more; got {head_dim}"
    for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
        if low in given and high in given and not given[low] < given[high]:
            yield f"{high} ({given[high]}) must be above {low} ({given[low]})"


def _value_problem(name: str, value: Any, head_dim: int) -> str | None:
    if name == "rope_type":
        return None
    if name == "truncate":
        return None if isinstance(value, bool) else f"truncate must be true or false; got {value!r}"
    if name in ("short_factor", "long_factor"):
        if isinstance(value, list) and len(value) == head_dim // 2 and all(map(_positive, value)):
            return None
        return f"{name} must be a list of {head_dim // 2} numbers above 0 (head_dim / 2)"
    if not _positive(value):
        return f"{name} must be a number above 0; got {value!r}"
    if name == "factor" and value < 1:
        return f"factor must be 1 or more; got {value!r}"
    if name == "original_max_position_embeddings" and not isinstance(value, int):
        return f"{name} must be an integer; got {value!r}"
    return None


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
