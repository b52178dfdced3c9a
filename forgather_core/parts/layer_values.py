"""Values that layers share within one call, and those that they return to the language model."""

from typing import Any

from torch import Tensor, nn

from forgather_core.parts.requirements import Needs

# The positional arguments of a layer before those that it asks for.
ARGUMENTS = ("attention_mask", "position_ids", "cache", "use_cache", "position_embeddings")


class LayerValues:
    """The values of one call that layers ask for by name.

    Args:
        **provided: Values of the decoder, by the names of `requirements.PROVIDED`.
    """

    def __init__(self, **provided: Any) -> None:
        self._values = provided
        self.returned: dict[str, tuple[Tensor, ...]] = {}

    def add(self, **provided: Any) -> None:
        """Add values of the decoder."""
        self._values |= provided

    def run(self, layer: nn.Module, hidden_states: Tensor, needs: Needs, arguments: dict[str, Any]) -> Tensor:
        """Run a layer: [B, T, D] -> [B, T, D]. Pass the values that it needs, and keep those that it returns.

        Values are positional arguments: reentrant gradient checkpointing gives no gradient to others.

        Raises:
            ValueError: A value is not available in this call.
        """
        if needs.inputs:
            values = [self._value(name) for name in needs.inputs]
            more = {name: value for name, value in arguments.items() if name not in ARGUMENTS}
            output = layer(hidden_states, *(arguments.get(name) for name in ARGUMENTS), *values, **more)
        else:
            output = layer(hidden_states, **arguments)
        if not needs.returns:
            return output
        hidden_states, *values = output
        for name, value in zip(needs.returns, values, strict=True):
            self._values.setdefault(name, value)  # later layers get the first one
            self.returned[name] = (*self.returned.get(name, ()), value)
        return hidden_states

    def _value(self, name: str) -> Any:
        if name not in self._values:
            raise ValueError(
                f"a layer needs {name}, which this call does not have: an earlier pipeline stage computes it"
            )
        if name == "input_ids" and self._values[name] is None:
            raise ValueError("a layer needs input_ids: pass input_ids instead of inputs_embeds")
        return self._values[name]
