"""Options of decoders whose layers differ in type. Standard library only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from forgather_core.option import option
from forgather_core.parts.option_groups import DecoderOptions, WindowOptions

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class LayerTypeOptions(WindowOptions, DecoderOptions):
    """A type for each layer, in transformers' names. A longer list describes a deeper model: the first layers count."""

    layer_types: list[str] | None = option(
        None, help="Type of each layer: full_attention or sliding_attention (default: a pattern)"
    )

    def default_layer_types(self) -> list[str]:
        """Return the types of all layers if `layer_types` is null; the default is one type for all."""
        return [FULL if self.sliding_window is None else SLIDING] * self.num_hidden_layers

    def derived(self) -> dict[str, Any]:
        """Add layer_types; without a window, all layers are full attention."""
        kinds = self.layer_types if self.layer_types is not None else self.default_layer_types()
        return super().derived() | {"layer_types": kinds[: self.num_hidden_layers]}

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that layer_types has a known type for each layer, and that windows have a size."""
        yield from super().problems()
        if self.layer_types is None:
            return
        if unknown := [kind for kind in self.layer_types if kind not in (FULL, SLIDING)]:
            yield "layer_types", f"must contain {FULL} and {SLIDING} only, got {unknown[0]!r}"
        yield from short_list("layer_types", self.layer_types, self.num_hidden_layers)
        if self.sliding_window is None and SLIDING in self.layer_types[: self.num_hidden_layers]:
            yield "layer_types", f"{SLIDING} requires sliding_window: set it, or use {FULL}"


def short_list(name: str, values: list[Any], layers: int) -> Iterator[tuple[str, str]]:
    """Yield an error for a list with fewer values than layers."""
    if len(values) < layers:
        yield name, f"must have a value for each of the {layers} layers (num_hidden_layers), got {len(values)}"
