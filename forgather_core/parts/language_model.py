"""The causal language model: a decoder with a head over the vocabulary; token ids in, logits and loss out."""

from typing import Any, ClassVar, Unpack

from torch import Tensor, nn
from transformers import Cache, GenerationMixin
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from forgather_core.parts.caches import CACHE, resolve_cache, takes_cache
from forgather_core.parts.decoder import Decoder
from forgather_core.parts.initial_weights import Table
from forgather_core.parts.linear_cross_entropy import linear_cross_entropy
from forgather_core.parts.outputs import LanguageModelOutput
from forgather_core.parts.pretrained import Pretrained


class CausalLM(Pretrained, GenerationMixin):
    """Base of causal language models: a decoder and a linear head over the vocabulary.

    A definition sets `config_class` and `decoder_class`.
    """

    decoder_class: ClassVar[type[Decoder]]
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan: ClassVar[dict[str, str]] = {"lm_head": "colwise_gather_output"}
    _pp_plan: ClassVar[dict[str, Any]] = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = self.decoder_class(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def initial_weights(self) -> Table:
        """Return the decoder's table, which includes the head."""
        return self.model.initial_weights()

    @takes_cache
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        skip_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]  # transformers has no types for mypy
    ) -> CausalLMOutputWithPast:
        """Compute logits [B, T, V], and the loss if labels are passed.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, cache: As for the
                decoder.
            labels: [B, T], not shifted; -100 is not a target. The loss is the mean over targets, or their sum divided
                by `num_items_in_batch` if that is passed.
            logits_to_keep: Number of last positions, or an index tensor of positions, to compute logits for; 0 means
                all.
            skip_logits: Whether to compute the loss in chunks and return None for the logits. None means the value in
                the configuration in training, and False otherwise.
            **kwargs: Further arguments of the decoder and the loss.

        Returns:
            The loss, a scalar or None, which includes an auxiliary loss; logits [B, T, V] or None; the cache; and the
            values that layers returned.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=resolve_cache(past_key_values, cache),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if skip_logits is None:
            skip_logits = self.training and getattr(self.config, "skip_logits", False)
        logits = loss = None
        if labels is None or not skip_logits or not self._supports_chunked_loss(logits_to_keep):
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, keep, :])
        if labels is not None and logits is None:
            loss = linear_cross_entropy(hidden_states, self.lm_head.weight, labels, **_loss_arguments(kwargs))
        elif labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        fields = {CACHE: outputs.get(CACHE), "hidden_states": outputs.hidden_states, "attentions": outputs.attentions}
        if not (values := outputs.get("layer_values")):
            return CausalLMOutputWithPast(loss=loss, logits=logits, **fields)
        aux_loss = self.auxiliary_loss(values, attention_mask)
        if loss is not None and aux_loss is not None:
            loss = loss + self.auxiliary_loss_weight() * aux_loss.to(loss.device)
        fields |= {"aux_loss": aux_loss, "router_logits": values.get("router_logits"), "layer_values": values}
        return LanguageModelOutput(loss=loss, logits=logits, **fields)

    def auxiliary_loss(self, values: dict[str, tuple[Tensor, ...]], attention_mask: Any) -> Tensor | None:
        """Return a loss that is added to the cross-entropy, before its weight; the default returns None.

        Args:
            values: The values that layers returned, by name, one for each layer that returned it.
            attention_mask: As passed to `forward`.

        Returns:
            A scalar, or None for no such loss.
        """
        return None

    def auxiliary_loss_weight(self) -> float:
        """Return the weight of the auxiliary loss: `config.router_aux_loss_coef`, or 1 without that option."""
        return getattr(self.config, "router_aux_loss_coef", 1.0)

    def _supports_chunked_loss(self, logits_to_keep: int | Tensor) -> bool:
        """Return whether the loss can be computed in chunks: the default loss, and a plain linear head without bias.

        A modified head (adapters, tensor parallelism, offloading) must be called as a module.
        """
        head = self.lm_head
        default = isinstance(logits_to_keep, int) and logits_to_keep == 0 and self.loss_function is ForCausalLMLoss
        # Tensor subclasses (parallelism, quantization) have their own matrix product.
        plain = type(head) is nn.Linear and head.bias is None and not hasattr(head.weight, "__tensor_flatten__")
        return default and plain and not (head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head))


def _loss_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in ("num_items_in_batch", "ignore_index", "shift_labels") if name in kwargs}
