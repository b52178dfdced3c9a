"""Arguments of the layers of one call: positions, masks, rotary embeddings, and biases of attention."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from transformers import Cache

from forgather_core.parts.caches import cached_length
from forgather_core.parts.documents import Documents
from forgather_core.parts.masks import decoder_mask, makes_own_masks
from forgather_core.parts.positions import positions
from forgather_core.parts.requirements import RECURRENT, MaskKind, Needs


class LayerInputs:
    """The arguments of the layers of one call. Each distinct need is computed once, for the first layer that has it.

    Args:
        config: The model's configuration.
        inputs_embeds: [B, T, D].
        attention_mask: [B, S], 0 on padding; or a four-dimensional mask; or a mapping from layer type to such a mask.
        position_ids: [B or 1, T] as passed by the caller; None means that rows are not packed.
        cache: The cache of these layers before the call.
        rotary: Returns the rotary embedding of a name, or None.
    """

    def __init__(
        self,
        config: Any,
        inputs_embeds: Tensor,
        *,
        attention_mask: Any,
        position_ids: Tensor | None,
        cache: Cache | None,
        rotary: Callable[[str], nn.Module | None],
    ) -> None:
        self.config, self.inputs_embeds, self.cache, self.rotary = config, inputs_embeds, cache, rotary
        self.attention_mask, self.given_positions = attention_mask, position_ids
        self.past_length = cached_length(cache)
        if position_ids is None:
            position_ids = positions(inputs_embeds, attention_mask, self.past_length)
        self.position_ids = position_ids
        self._documents: Documents | None = None
        self._masks: dict[MaskKind | None, tuple[Any, dict[str, Any]]] = {None: (None, {})}
        self._angles: dict[str | None, Any] = {None: None}
        self._arguments: dict[Needs, dict[str, Any]] = {}

    def of(self, needs: Needs, layer: int) -> dict[str, Any]:
        """Return the keyword arguments of a layer with these needs; `layer` is its index in the cache."""
        if needs not in self._arguments:
            mask, more = self._mask(needs.mask, layer)
            if needs.bias is not None:
                more = more | needs.bias.arguments(
                    self.inputs_embeds,
                    self._given_mask(needs.mask),
                    position_ids=self.given_positions,
                    cache=self.cache,
                    past_length=cached_length(self.cache),
                    layer_idx=layer,
                )
            if (angles := self._position_embeddings(needs.rope)) is not None:
                more = more | {"position_embeddings": angles}
            self._arguments[needs] = {"attention_mask": mask, "position_ids": self.position_ids} | more
        return self._arguments[needs]

    def provided(self, needs: Iterable[Needs]) -> dict[str, Any]:
        """Return those of `padding_mask` and `document_starts` that a layer asks for; see `requirements.PROVIDED`."""
        asked = {name for need in needs for name in need.inputs}
        makers = {"padding_mask": self._padding_mask, "document_starts": self._document_starts}
        return {name: make() for name, make in makers.items() if name in asked}

    def _padding_mask(self) -> Tensor | None:
        given = self._given_mask(RECURRENT)
        if not isinstance(given, Tensor) or given.dim() != 2:
            return None
        return given[:, -self.inputs_embeds.shape[1] :].bool()

    def _document_starts(self) -> Tensor | None:
        given = self.attention_mask  # not that of a layer type, which generate() has cut to this call
        documents = self._documents_of(given if isinstance(given, Tensor) and given.dim() == 2 else None)
        return documents.starts - self.past_length if documents is not None and documents.may_be_packed() else None

    def _position_embeddings(self, name: str | None) -> Any:
        if name is not None and name not in self._angles:
            rotary_emb = self.rotary(name)
            angles = None if rotary_emb is None else rotary_emb(self.inputs_embeds, position_ids=self.position_ids)
            self._angles[name] = angles
        return self._angles[name]

    def _mask(self, kind: MaskKind | None, layer: int) -> tuple[Any, dict[str, Any]]:
        if kind is not None and kind not in self._masks:
            given = self._given_mask(kind)
            self._masks[kind] = decoder_mask(
                self.config,
                self.inputs_embeds,
                kind=kind,
                attention_mask=given,
                cache=self.cache,
                layer_idx=layer,
                documents=self._documents_of(given),
            )
        return self._masks[kind]

    def _given_mask(self, kind: MaskKind | None) -> Any:
        if isinstance(self.attention_mask, dict) and kind is not None:
            return self.attention_mask.get(kind.layer_type)  # generate() makes these for compileable caches
        return self.attention_mask

    def _documents_of(self, given: Any) -> Documents | None:
        """Return the documents of the rows; None if `given` is a complete mask, or the caller passed no positions."""
        complete = given is not None and len(given.shape) == 4
        if self.given_positions is None or complete or makes_own_masks(self.config, self.cache):
            return None
        if self._documents is None:
            batch = self.inputs_embeds.shape[0]
            self._documents = Documents(self.given_positions, given, self.past_length, batch)
        return self._documents
