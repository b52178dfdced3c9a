"""Base of decoder layers: their arguments, what they need for a call, and the values that they return."""

from typing import Any

from torch import Tensor, nn
from transformers import Cache, GradientCheckpointingLayer

from forgather_core.parts.caches import CACHE, resolve_cache
from forgather_core.parts.requirements import Needs, merged_needs


class Block(GradientCheckpointingLayer):
    """One layer of a decoder: [B, T, D] -> [B, T, D]. Supports gradient checkpointing.

    Subclasses implement `compute`. A block needs what its mixers need; see `requirements.py`.
    """

    _needs: Needs | None = None

    def needs(self) -> Needs:
        """Return the needs of the block."""
        return self._needs if self._needs is not None else self.collect_needs()

    def collect_needs(self) -> Needs:
        """Collect the needs of the modules in this block, which `needs` keeps."""
        self._needs = merged_needs(self)
        return self._needs

    def mix(self, mixer: nn.Module, hidden_states: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Call a token mixer, without the inputs of other modules of this block.

        Returns:
            Its result [B, T, D], and the values that it returns; attention weights are left out.
        """
        others = set(self.needs().inputs).difference(_inputs_of(mixer))
        if others:
            kwargs = {name: value for name, value in kwargs.items() if name not in others}
        result, _, *values = mixer(hidden_states=hidden_states, **kwargs)
        return result, tuple(values)

    def feed(self, mlp: nn.Module, hidden_states: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Call a feed-forward layer with the inputs that it needs.

        Returns:
            Its result [B, T, D], and the values that it returns.
        """
        output = mlp(hidden_states, **{name: kwargs[name] for name in _inputs_of(mlp)})
        return (output, ()) if isinstance(output, Tensor) else (output[0], tuple(output[1:]))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        *inputs: Any,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the layer: [B, T, D] -> [B, T, D]. The arguments and their order are those of transformers' layers.

        The cache is accepted under both of its names, and passed on under the name of the installed transformers.

        Args:
            hidden_states: [B, T, D].
            attention_mask, position_ids, cache, use_cache, position_embeddings: As for attention.
            *inputs: The values of `needs().inputs`, in that order.
            past_key_values: The cache.
            **kwargs: Further arguments of attention.

        Returns:
            [B, T, D]; or a tuple of it and the values of `needs().returns`.
        """
        if inputs:
            kwargs |= zip(self.needs().inputs, inputs, strict=True)
        return self.compute(
            hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **{CACHE: resolve_cache(past_key_values, cache)},
            **kwargs,
        )

    def compute(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        """Compute [B, T, D] -> [B, T, D]; `kwargs` are the arguments of attention, and the values of `needs().inputs`.

        A block with `needs().returns` returns a tuple of its hidden states and these values.
        """
        raise NotImplementedError


def _inputs_of(module: Any) -> tuple[str, ...]:
    return module.needs().inputs if hasattr(type(module), "needs") else ()


def with_values(hidden_states: Tensor, values: tuple[Tensor, ...]) -> Any:
    """Return the result of a block: its hidden states, or a tuple of them and its values."""
    return (hidden_states, *values) if values else hidden_states
