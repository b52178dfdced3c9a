"""Mistakes that implementations of language models have, each as one replacement in an exported model directory.

Every one changes what the model does for some input or some configuration; a mutant that never does is no mistake,
and is not here. The text that is replaced is exact: where a source changes so that it is no longer there, applying the
mutant is an error, and `test_mutants.py` says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}
WINDOW = {"sliding_window": 512}
GROUPED = {"num_key_value_heads": 2}
TIED = {"tie_word_embeddings": True}


@dataclass(frozen=True)
class Mutant:
    """A model directory with a mistake.

    Args:
        name: Words joined by hyphens.
        definition: What the directory is made of: a definition, or one of its presets.
        file: The file that is changed, in that directory.
        old: The text there; it occurs `count` times.
        new: What stands in its place, each time.
        mistake: What it is, and where such a mistake comes from.
        options: Options of the definition, beside the preset's.
        count: How often the text occurs.
    """

    name: str
    definition: str
    file: str
    old: str
    new: str
    mistake: str
    options: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1

    def applied(self, text: str) -> str:
        """The file's text with the mistake in it.

        Raises:
            ValueError: The text to replace does not occur as often as it is said to.
        """
        if (found := text.count(self.old)) != self.count:
            raise ValueError(f"mutant '{self.name}': its text is in {self.file} {found} times, not {self.count}")
        return text.replace(self.old, self.new)


MASKS = [
    Mutant(
        "mask-dropped",
        "llama",
        "masks.py",
        "and_mask_function=overlay,",
        "or_mask_function=lambda batch, head, q, kv: kv >= 0,",
        "every token sees the whole row: the causal mask is built and then or-ed away",
    ),
    Mutant(
        "mask-sees-next-token",
        "deepone",
        "masks.py",
        "and_mask_function=overlay,",
        "or_mask_function=lambda batch, head, q, kv: kv == q + 1,",
        "off by one: tril(diagonal=1) lets each token see the one it is to predict",
    ),
    Mutant(
        "mask-hides-itself",
        "qwen3",
        "masks.py",
        "and_mask_function=overlay,",
        "and_mask_function=lambda batch, head, q, kv: (kv < q) | (q == 0),",
        "off by one the other way: tril(diagonal=-1), a token does not see itself",
    ),
    Mutant(
        "mask-only-in-eager",
        "causal_lm",
        "self_attention.py",
        "is_causal = True",
        "is_causal = False",
        "is_causal left at False: sdpa, which is given no mask for plain rows, sees the future",
    ),
    Mutant(
        "mask-not-in-eager",
        "mistral",
        "self_attention.py",
        "if attention_mask is not None:",
        "if attention_mask is not None and module.training:",
        "the reference implementation masks in training only",
    ),
    Mutant(
        "alibi-without-causal-mask",
        "single_head",
        "alibi.py",
        "bias = bias.masked_fill(distance > 0, least)",
        "pass",
        "a bias is given to sdpa, which then is no longer causal by itself, and nobody adds the mask to it",
    ),
    Mutant(
        "clamp-after-mask",
        "single_head",
        "self_attention.py",
        ".softmax(-1).to(",
        ".softmax(-1).clamp(min=1e-10).to(",
        "weights are clamped after masking, so that 1e-10 of every future token leaks (seen elsewhere)",
    ),
    Mutant(
        "mask-is-minus-ten",
        "llama",
        "self_attention.py",
        "scores_BHTS = scores_BHTS + attention_mask",
        "scores_BHTS = scores_BHTS + attention_mask.clamp(min=-10.0)",
        "a small number stands for minus infinity, as GPT-2's -1e4 did in float16",
    ),
]

WINDOWS = [
    Mutant(
        "window-ignored",
        "mistral",
        "decoder.py",
        "sliding_window=window,",
        "sliding_window=None,",
        "the window is read by another name, and does nothing in eager and sdpa (seen elsewhere)",
    ),
    Mutant(
        "window-option-dead",
        "llama",
        "modeling_llama.py",
        "sliding_window=c.sliding_window,",
        "sliding_window=None,",
        "the option is accepted and nothing reads it",
        WINDOW,
    ),
    Mutant(
        "window-one-more",
        "mistral",
        "masks.py",
        "and_mask_function=overlay,",
        "and_mask_function=overlay,\n"
        "        or_mask_function=lambda batch, head, q, kv: kv == q - config.sliding_window,",
        "off by one: a query sees one key more than the window, as where it does not count itself",
    ),
    Mutant(
        "window-one-less",
        "llama",
        "masks.py",
        "    create = create_causal_mask if sliding_window is None",
        "    if sliding_window is not None and overlay is None:\n"
        "        overlay = lambda batch, head, q, kv: kv > q - sliding_window + 1\n"
        "    create = create_causal_mask if sliding_window is None",
        "off by one the other way, by every implementation and every cache alike",
        WINDOW,
    ),
    Mutant(
        "window-ignored-with-cache",
        "mistral",
        "decoder.py",
        "sliding_window=window,",
        "sliding_window=window if cache is None or cache.get_seq_length() == 0 else None,",
        "pieces that are fed upon a cache are masked without a window",
    ),
    Mutant(
        "window-of-first-layer-for-all",
        "qwen3",
        "decoder.py",
        "mask, more = masks[window]",
        "mask, more = masks[windows[0]]",
        "one mask for all layers, although only some have a window",
        WINDOW | {"max_window_layers": 1},
    ),
    Mutant(
        "max-window-layers-dead",
        "qwen3",
        "modeling_qwen3.py",
        "sliding_window=c.windows()[i],",
        "sliding_window=c.sliding_window,",
        "the configuration's layer_types say which layers have the window, and all have it",
        WINDOW | {"max_window_layers": 2},
    ),
]

PADDING_AND_POSITIONS = [
    Mutant(
        "padding-mask-ignored",
        "llama",
        "decoder.py",
        "attention_mask=given,",
        "attention_mask=None,",
        "the padding mask is accepted and ignored (seen elsewhere)",
    ),
    Mutant(
        "padding-mask-of-first-row",
        "causal_lm",
        "decoder.py",
        "attention_mask=given,",
        "attention_mask=given[:1].expand_as(given) if given is not None else None,",
        "the padding of the first row stands for that of the batch",
    ),
    Mutant(
        "padding-counted-in-positions",
        "causal_lm",
        "positions.py",
        "return (counted[:, steps.clamp(max=counted.shape[1] - 1)] - 1).clamp(min=0)",
        "return steps.unsqueeze(0)",
        "padding on the left moves absolute positions on",
    ),
    Mutant(
        "alibi-counts-padding",
        "single_head",
        "positions.py",
        "if not _may_be_padded(attention_mask):",
        "if attention_mask is None or True:",
        "padding between two tokens moves them apart",
    ),
    Mutant(
        "positions-forget-cache",
        "llama",
        "positions.py",
        "steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_length",
        "steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + 0 * past_length",
        "what is fed upon a cache has the positions of a text's begin",
    ),
    Mutant(
        "positions-off-by-one-after-prefill",
        "qwen3",
        "positions.py",
        "device=inputs_embeds.device) + past_length",
        "device=inputs_embeds.device) + past_length + int(past_length > 0)",
        "the first token after a prefill is a position too far: the length and the last index are confused",
    ),
    Mutant(
        "position-ids-ignored",
        "causal_lm",
        "modeling_causal_lm.py",
        "self.embed_positions(position_ids)",
        "self.embed_positions(position_ids.clone().fill_(1).cumsum(-1) - 1)",
        "sinusoidal positions are counted anew in each call and do not restart with documents",
    ),
    Mutant(
        "positions-of-first-row",
        "llama",
        "decoder.py",
        "rotary_emb(inputs_embeds, position_ids=position_ids)",
        "rotary_emb(inputs_embeds, position_ids=position_ids[:1])",
        "the positions of the first row serve the whole batch",
    ),
    Mutant(
        "sinusoids-off-by-one",
        "causal_lm",
        "sinusoidal.py",
        "position_ids[..., None].float()",
        "(position_ids[..., None] + 1).float()",
        "positions begin at 1, as fairseq's do after its padding index; the paper's begin at 0",
    ),
    Mutant(
        "sinusoids-in-halves",
        "causal_lm",
        "sinusoidal.py",
        "torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)",
        "torch.cat((angles.sin(), angles.cos()), dim=-1)",
        "sines in the first half of the channels, cosines in the second, as tensor2tensor has them: not the formula",
    ),
]

CACHES = [
    Mutant(
        "cache-not-read",
        "llama",
        "self_attention.py",
        "key_BGSK, value_BGSK = fill_cache(",
        "key_BGSK, value_BGSK = key_BGTK, value_BGTK\n        fill_cache(",
        "keys go into the cache, and attention sees those of this call alone",
    ),
    Mutant(
        "cache-not-returned",
        "mistral",
        "language_model.py",
        "**{CACHE: outputs.get(CACHE)},",
        "**{CACHE: None},",
        "the cache is not among the outputs: generation sees the last token alone",
    ),
    Mutant(
        "cache-under-the-old-name-only",
        "single_head",
        "caches.py",
        "return past_key_values if past_key_values is not None else cache",
        "return past_key_values",
        "the name of transformers 5.24 is passed over: generation sees the last token alone, with no error",
    ),
    Mutant(
        "use-cache-ignored",
        "qwen3",
        "decoder.py",
        "if use_cache and cache is None:",
        "if cache is None:",
        "use_cache=False is accepted and a cache comes back (seen elsewhere)",
    ),
    Mutant(
        "layers-share-a-cache",
        "llama",
        "modeling_llama.py",
        "layer_idx=i,",
        "layer_idx=0,",
        "all layers write into the first layer of the cache",
    ),
    Mutant(
        "cached-keys-not-rotated",
        "mistral",
        "attention.py",
        "query_BHTK, key_BGTK = rotate_all((query_BHTK, key_BGTK), *position_embeddings)",
        "query_BHTK, rotated = rotate_all((query_BHTK, key_BGTK), *position_embeddings)\n"
        "            key_BGTK = rotated if cache is None else key_BGTK",
        "keys are cached before they are rotated, and never rotated later",
    ),
    Mutant(
        "alibi-keys-forget-the-window",
        "deepone",
        "positions.py",
        "key = torch.arange(key_length, device=device) + key_offset",
        "key = torch.arange(key_length, device=device)",
        "keys of a sliding cache are counted from 0, although the oldest are gone",
    ),
    Mutant(
        "alibi-queries-forget-the-cache",
        "single_head",
        "positions.py",
        "query = torch.arange(length, device=device) + past_length",
        "query = torch.arange(length, device=device)",
        "the distance of a new token to cached ones is counted from 0",
    ),
]

ROTATION = [
    Mutant(
        "rope-interleaved",
        "llama",
        "rotation.py",
        "return [x * cos_B1TK + x.roll(half, dims=-1) * signed_B1TK for x in heads]",
        "halves = [x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2) for x in heads]\n"
        "    turned = [x * cos_B1TK + x.roll(half, dims=-1) * signed_B1TK for x in halves]\n"
        "    return [x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2) for x in turned]",
        "pairs (2i, 2i + 1) as in Meta's own files, with weights of the half-split form",
    ),
    Mutant(
        "rope-turns-backwards",
        "mistral",
        "rotation.py",
        "torch.cat((-first, first), dim=-1)",
        "torch.cat((first, -first), dim=-1)",
        "the sign of the sines: relative positions are still relative, and the model is another",
    ),
    Mutant(
        "rope-of-queries-only",
        "qwen3",
        "attention.py",
        "query_BHTK, key_BGTK = rotate_all((query_BHTK, key_BGTK), *position_embeddings)",
        "query_BHTK = rotate_all((query_BHTK, key_BGTK), *position_embeddings)[0]",
        "keys are not rotated",
    ),
    Mutant(
        "rope-theta-ignored",
        "qwen3",
        "rope.py",
        'self.numbers.rope_parameters["rope_theta"] **',
        "10000.0 **",
        "rope_theta is a constant, as where it was looked for under its old name",
    ),
    Mutant(
        "rope-theta-dead",
        "llama",
        "rope.py",
        'self.numbers.rope_parameters["rope_theta"] **',
        "10000.0 **",
        "the same where the option has the value of the constant",
    ),
    Mutant(
        "rope-scaling-missing",
        "llama",
        "rope.py",
        'if self.rope_type != "default":',
        'if self.rope_type not in ("default", "linear"):',
        "rope_type linear is accepted and scales nothing",
        {"rope_parameters": LINEAR},
    ),
    Mutant(
        "rope-attention-factor-missing",
        "mistral",
        "rope.py",
        "angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling",
        "angles.cos(), angles.sin()",
        "yarn's factor of cosines and sines is left out",
        {"rope_parameters": YARN},
    ),
    Mutant(
        "rope-dynamic-never",
        "llama",
        "rope.py",
        "return torch.where(last >= self.numbers.max_position_embeddings, scaled, inv_freq)",
        "return inv_freq",
        "rope_type dynamic never changes, however long a text is",
        {"rope_parameters": DYNAMIC},
    ),
    Mutant(
        "rope-angles-in-low-precision",
        "llama",
        "rope.py",
        "angles = position_ids[..., None].float() * self._frequencies_at(position_ids)",
        "angles = position_ids[..., None].to(x.dtype) * self._frequencies_at(position_ids).to(x.dtype)",
        "angles are computed in the dtype of the model: in bfloat16 far positions fall together",
    ),
    Mutant(
        "rope-buffer-cast",
        "qwen3",
        "computed_buffers.py",
        "if was_meta or any(buffer.dtype != torch.float32 for buffer in self.buffers(recurse=False)):",
        "if was_meta:",
        "model.to(bfloat16) casts the frequencies with the weights",
    ),
]

ATTENTION = [
    Mutant(
        "kv-heads-repeated-in-the-wrong-order",
        "qwen3",
        "self_attention.py",
        "key_BHSK = key_BGSK.repeat_interleave(module.num_key_value_groups, dim=1)",
        "key_BHSK = key_BGSK.repeat(1, module.num_key_value_groups, 1, 1)",
        "repeat for repeat_interleave: heads share the keys of another group",
    ),
    Mutant(
        "kv-heads-dealt-out-in-turn",
        "qwen3",
        "attention.py",
        "query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2)",
        "query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2)\n"
        "        query_BHTK = query_BHTK.unflatten(1, (-1, self.num_key_value_groups)).transpose(1, 2).flatten(1, 2)",
        "the same by every implementation: query head i goes with key head i modulo G",
    ),
    Mutant(
        "attention-not-scaled",
        "deepone",
        "self_attention.py",
        "self.scaling = head_dim**-0.5",
        "self.scaling = 1.0",
        "scores are not divided by sqrt(head_dim)",
    ),
    Mutant(
        "attention-scaled-by-hidden-size",
        "llama",
        "modeling_llama.py",
        "            for i in range(c.num_hidden_layers)\n        )\n",
        "            for i in range(c.num_hidden_layers)\n        )\n"
        "        for layer in self.layers:\n            layer.self_attn.scaling = c.hidden_size**-0.5\n",
        "scores are divided by sqrt(hidden_size)",
    ),
    Mutant(
        "attention-scaled-twice",
        "mistral",
        "attention.py",
        "query_BTHK = self.q_proj(hidden_states).view(heads)",
        "query_BTHK = self.q_proj(hidden_states).view(heads) * self.scaling",
        "queries are scaled, and the attention function scales the scores again",
    ),
    Mutant(
        "attention-scaled-twice-in-eager",
        "causal_lm",
        "self_attention.py",
        "key_BHSK.transpose(-1, -2) * scaling",
        "key_BHSK.transpose(-1, -2) * scaling * scaling",
        "one implementation alone scales twice",
    ),
    Mutant(
        "qk-norms-swapped",
        "qwen3",
        "attention.py",
        "query_BTHK = self.q_norm(query_BTHK)",
        "query_BTHK = self.k_norm(query_BTHK)",
        "queries are normed with the scales of keys",
    ),
    Mutant(
        "qk-norms-missing",
        "qwen3",
        "attention.py",
        "if self.q_norm is not None:",
        "if self.q_norm is None and self.k_norm is not None:",
        "the norm of queries is made, stored, and never applied",
    ),
    Mutant(
        "softmax-in-low-precision",
        "causal_lm",
        "self_attention.py",
        "scores_BHTS.softmax(-1)",
        "scores_BHTS.to(query_BHTK.dtype).sub(scores_BHTS.max()).exp().div("
        "scores_BHTS.sub(scores_BHTS.max()).exp().sum(-1, keepdim=True))",
        "a softmax by hand, which takes the maximum of the whole batch: rows and the future leak through rounding",
    ),
    Mutant(
        "values-viewed-not-transposed",
        "llama",
        "attention.py",
        "self.v_proj(hidden_states).view(heads).transpose(1, 2)",
        "self.v_proj(hidden_states).view(heads[0], -1, heads[1], self.head_dim)",
        "view for transpose: values of other positions and heads, of the right shape",
    ),
]

ALIBI = [
    Mutant(
        "alibi-sign",
        "deepone",
        "alibi.py",
        "return distance * self.slopes",
        "return -distance * self.slopes",
        "far keys are seen more, not less",
    ),
    Mutant(
        "alibi-positions-in-low-precision",
        "single_head",
        "positions.py",
        "return TokenPositions(query[None].float(), key[None].float())",
        "return TokenPositions(query[None].to(inputs_embeds.dtype), key[None].to(inputs_embeds.dtype))",
        "positions are counted in the dtype of the model: in bfloat16 those beyond 256 fall together",
    ),
    Mutant(
        "alibi-slopes-cast",
        "deepone",
        "alibi.py",
        "if self.slopes.dtype != torch.float32 and self.slopes.is_floating_point():",
        "if self.slopes.dtype == torch.float64:",
        "model.to(bfloat16) rounds the slopes to 8 bits",
    ),
    Mutant(
        "alibi-slopes-loaded-in-low-precision",
        "single_head",
        "decoder.py",
        'self._keep_in_fp32_modules_strict = {"alibi"}',
        "self._keep_in_fp32_modules_strict = set()",
        "from_pretrained in bfloat16 rounds the slopes to 8 bits",
    ),
    Mutant(
        "alibi-slopes-outside-the-graph",
        "single_head",
        "alibi.py",
        "return distance * self.slopes",
        "return distance * self.slopes.detach()",
        "slopes are parameters that receive no gradient",
    ),
    Mutant(
        "alibi-slopes-frozen-on-load",
        "deepone",
        "alibi.py",
        "param.requires_grad_(self.trainable)",
        "param.requires_grad_(False)",
        "slopes are not trained, whatever alibi_trainable says",
    ),
    Mutant(
        "alibi-trainable-dead",
        "deepone",
        "modeling_deepone.py",
        "trainable=c.alibi_trainable",
        "trainable=True",
        "alibi_trainable is accepted and nothing reads it",
    ),
    Mutant(
        "alibi-slopes-dead",
        "deepone",
        "modeling_deepone.py",
        'yield r"slopes", values(SLOPES[c.alibi_slopes](',
        'yield r"slopes", values(SLOPES["half"](',
        "alibi_slopes is accepted, and initial slopes are always those of the default",
    ),
    Mutant(
        "alibi-slopes-from-one",
        "deepone",
        "alibi.py",
        "return [2 ** -(1 + 7 * i / max(num_heads - 1, 1)) for i in range(first)]",
        "return [2 ** -(7 * i / max(num_heads - 1, 1)) for i in range(first)]",
        "slopes are twice those promised: the first is 1, not 1/2",
    ),
]

BLOCKS = [
    Mutant(
        "residual-dropped",
        "llama",
        "blocks.py",
        "return hidden_states + self.drop(self.mlp(self.post_attention_layernorm(hidden_states)))",
        "return self.drop(self.mlp(self.post_attention_layernorm(hidden_states)))",
        "the feed-forward layer's residual is missing",
    ),
    Mutant(
        "residual-scaled",
        "single_head",
        "blocks.py",
        "hidden_states = hidden_states + self.drop(attended)",
        "hidden_states = hidden_states + 0.5 * self.drop(attended)",
        "attention adds half of what it should",
    ),
    Mutant(
        "residual-after-norm",
        "single_head",
        "blocks.py",
        "attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)",
        "hidden_states = self.input_layernorm(hidden_states)\n"
        "        attended, _ = self.self_attn(hidden_states=hidden_states, **kwargs)",
        "the residual is taken after the norm, as BLOOM's option does",
    ),
    Mutant(
        "post-norm-for-pre-norm",
        "llama",
        "blocks.py",
        "attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)\n"
        "        hidden_states = hidden_states + self.drop(attended)",
        "attended, _ = self.self_attn(hidden_states=hidden_states, **kwargs)\n"
        "        hidden_states = self.input_layernorm(hidden_states + self.drop(attended))",
        "the norm comes after attention and its residual",
    ),
    Mutant(
        "norm-missing-before-head",
        "deepone",
        "decoder.py",
        "last_hidden_state=self.norm(hidden_states)",
        "last_hidden_state=hidden_states",
        "the final norm is made, stored, and never applied",
    ),
    Mutant(
        "norm-before-head-twice",
        "mistral",
        "decoder.py",
        "last_hidden_state=self.norm(hidden_states)",
        "last_hidden_state=self.norm(self.norm(hidden_states))",
        "decoder and language model both apply the final norm",
    ),
    Mutant(
        "norm-eps-ignored",
        "llama",
        "norms.py",
        "keepdim=True) + self.eps)",
        "keepdim=True) + 1e-6)",
        "eps is a constant: rms_norm_eps of a checkpoint does nothing",
    ),
    Mutant(
        "norm-eps-dead",
        "qwen3",
        "modeling_qwen3.py",
        "self.norm = RMSNorm(c.hidden_size, eps=c.rms_norm_eps)",
        "self.norm = RMSNorm(c.hidden_size, eps=1e-6)",
        "one norm of many does not read rms_norm_eps",
    ),
    Mutant(
        "norm-eps-outside-the-root",
        "mistral",
        "norms.py",
        "torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)",
        "(x.square().mean(-1, keepdim=True).sqrt() + self.eps).reciprocal()",
        "eps is added to the root, not under it",
    ),
    Mutant(
        "norm-in-low-precision",
        "llama",
        "norms.py",
        "x = hidden_states.float()",
        "x = hidden_states",
        "the mean square is taken in the dtype of the model",
    ),
    Mutant(
        "norm-over-the-batch",
        "deepone",
        "norms.py",
        "x.square().mean(-1, keepdim=True)",
        "x.square().mean((0, -1), keepdim=True)",
        "the mean square is taken over the rows of a batch",
    ),
    Mutant(
        "norm-over-positions",
        "single_head",
        "norms.py",
        "x.square().mean(-1, keepdim=True)",
        "x.square().mean((1, -1), keepdim=True)",
        "the mean square is taken over positions, of which some are the future",
    ),
    Mutant(
        "deepnorm-alpha-missing",
        "deepone",
        "blocks.py",
        "torch.add(branch, residual, alpha=self.alpha)",
        "torch.add(branch, residual)",
        "the residual of DeepNorm is not weighted",
    ),
    Mutant(
        "deepnorm-alpha-wrong",
        "deepone",
        "modeling_deepone.py",
        "alpha = (2 * c.num_hidden_layers) ** (1 / 4)",
        "alpha = (8 * c.num_hidden_layers) ** (1 / 4)",
        "the constant of beta in the formula of alpha",
    ),
    Mutant(
        "deepnorm-beta-wrong",
        "deepone",
        "modeling_deepone.py",
        "beta = (8 * c.num_hidden_layers) ** (-1 / 4)",
        "beta = (2 * c.num_hidden_layers) ** (-1 / 4)",
        "the constant of alpha in the formula of beta",
    ),
    Mutant(
        "gate-and-up-swapped",
        "llama",
        "feed_forward.py",
        "self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)",
        "self.act_fn(self.up_proj(hidden_states)) * self.gate_proj(hidden_states)",
        "the activation is on the other branch: w1 and w3 of Meta's files confused",
    ),
    Mutant(
        "activation-missing",
        "causal_lm",
        "feed_forward.py",
        "self.act_fn(self.up_proj(hidden_states))",
        "self.up_proj(hidden_states)",
        "two linear layers with nothing between them",
    ),
    Mutant(
        "activation-other",
        "mistral",
        "modeling_mistral.py",
        'activation="silu"',
        'activation="gelu"',
        "GELU for SiLU: hidden_act of config.json is not what runs",
    ),
    Mutant(
        "activation-other-relu",
        "deepone",
        "modeling_deepone.py",
        'activation="relu"',
        'activation="silu"',
        "SiLU for ReLU, in a model that nobody else has",
    ),
    Mutant(
        "embedding-not-scaled",
        "causal_lm",
        "modeling_causal_lm.py",
        "scaled = inputs_embeds * self.config.hidden_size**0.5",
        "scaled = inputs_embeds",
        "sqrt(d) of sec. 3.4 is missing: positions drown embeddings",
    ),
    Mutant(
        "embedding-not-scaled-single-head",
        "single_head",
        "modeling_single_head.py",
        "self.embed_drop(inputs_embeds * self.config.hidden_size**0.5)",
        "self.embed_drop(inputs_embeds)",
        "sqrt(d) is missing where a norm hides it from all but the residual",
    ),
    Mutant(
        "embeddings-given-are-not-prepared",
        "causal_lm",
        "decoder.py",
        "if here.start == 0:",
        "if here.start == 0 and input_ids is not None:",
        "embeddings that are given get neither scale nor positions",
    ),
]

DROPOUT = [
    Mutant(
        "attention-dropout-in-eval",
        "llama",
        "self_attention.py",
        "dropout=self.attention_dropout if self.training else 0.0,",
        "dropout=self.attention_dropout,",
        "sdpa drops in evaluation too: it knows no training flag",
    ),
    Mutant(
        "dropout-in-eval",
        "causal_lm",
        "blocks.py",
        "self.drop = nn.Dropout(dropout) if dropout else unchanged",
        "self.drop = (lambda x: nn.functional.dropout(x, dropout)) if dropout else unchanged",
        "functional dropout without its training flag, which is True by default",
        count=2,
    ),
    Mutant(
        "attention-dropout-dead",
        "llama",
        "modeling_llama.py",
        "dropout=c.attention_dropout,",
        "dropout=0.0,",
        "attention_dropout is accepted and nothing reads it",
    ),
    Mutant(
        "layer-dropout-dead",
        "causal_lm",
        "modeling_causal_lm.py",
        "dropout=c.layer_dropout,",
        "dropout=0.0,",
        "layer_dropout is accepted and nothing reads it",
    ),
    Mutant(
        "embedding-dropout-dead",
        "single_head",
        "modeling_single_head.py",
        "return self.embed_drop(inputs_embeds * self.config.hidden_size**0.5)",
        "return inputs_embeds * self.config.hidden_size**0.5",
        "embedding_dropout makes a module that nobody calls",
    ),
]

WEIGHTS = [
    Mutant(
        "init-never-ran",
        "llama",
        "table_init.py",
        "self.fills.setdefault(id(parameter), Fill(rule, parameter, name))",
        "pass",
        "initialisation silently never ran: weights are torch's own (seen elsewhere: 0.036 for 0.020)",
    ),
    Mutant(
        "init-std-wrong",
        "mistral",
        "llama_weights.py",
        'yield r"(q|k|v|gate|up)_proj", truncated_normal(std=0.02)',
        'yield r"(q|k|v|gate|up)_proj", truncated_normal(std=0.036)',
        "1.8 times the spread, in the table itself (0.036 for 0.020, seen elsewhere)",
    ),
    Mutant(
        "init-draws-another-std",
        "llama",
        "initial_weights.py",
        "numbers.normal_(0.0, self.scale, generator=generator)\n        outside",
        "numbers.normal_(0.0, 1.8 * self.scale, generator=generator)\n        outside",
        "1.8 times the spread, although the table is right",
    ),
    Mutant(
        "init-not-by-depth",
        "qwen3",
        "llama_weights.py",
        "truncated_normal(std=0.02 * depth)",
        "truncated_normal(std=0.02)",
        "residual branches begin as large as the others",
    ),
    Mutant(
        "init-row-missing",
        "llama",
        "llama_weights.py",
        'r"(q|k|v|gate|up)_proj"',
        'r"(q|v|gate|up)_proj"',
        "no row of the table matches keys",
    ),
    Mutant(
        "init-row-in-the-wrong-order",
        "deepone",
        "modeling_deepone.py",
        'yield r"(q|k)_proj", xavier_normal(gain=1)',
        'yield r"proj", xavier_normal(gain=1)',
        "a pattern that is too wide comes first: beta reaches nothing",
    ),
    Mutant(
        "init-xavier-formula",
        "deepone",
        "initial_weights.py",
        "numbers.normal_(0.0, self.std(shape), generator=generator)",
        "numbers.normal_(0.0, self.std(shape) / 2**0.5, generator=generator)",
        "1 / (fan_in + fan_out) under the root of Xavier, not 2",
    ),
    Mutant(
        "init-leaves-biases",
        "causal_lm",
        "table_init.py",
        "for leaf, parameter in module.named_parameters(recurse=False):",
        'for leaf, parameter in ((n, p) for n, p in module.named_parameters(recurse=False) if n != "bias"):',
        "biases are left as torch drew them",
    ),
    Mutant(
        "init-embedding-of-another-fan",
        "causal_lm",
        "modeling_causal_lm.py",
        'yield r"embed_tokens", normal(std=c.hidden_size**-0.5, zero_row=c.pad_token_id)',
        'yield r"embed_tokens", normal(std=1.0, zero_row=c.pad_token_id)',
        "the embedding is N(0, 1) and is scaled by sqrt(d) all the same",
    ),
    Mutant(
        "padding-row-not-zero",
        "llama",
        "weight_pieces.py",
        "run[lo - first : hi - first].zero_()",
        "pass",
        "the embedding of padding is drawn like the others",
    ),
    Mutant(
        "buffers-not-refilled",
        "llama",
        "rope.py",
        "self.inv_freq = self._frequencies(device)[0]",
        "pass",
        "reset_buffers() does nothing: from_pretrained leaves frequencies as garbage, with no error (seen elsewhere)",
    ),
    Mutant(
        "buffers-not-refilled-sinusoidal",
        "causal_lm",
        "sinusoidal.py",
        "self.inv_freq = self._frequencies(self.inv_freq.device)",
        "self._frequencies(self.inv_freq.device)",
        "reset_buffers() computes and throws away",
    ),
    Mutant(
        "buffers-never-asked-for",
        "qwen3",
        "table_init.py",
        'if hasattr(module, "reset_buffers"):',
        'if hasattr(module, "reset_parameters"):',
        "nobody calls reset_buffers(): computed buffers keep what memory held",
    ),
    Mutant(
        "ties-lost",
        "single_head",
        "language_model.py",
        '_tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}',
        "_tied_weights_keys: ClassVar[dict[str, str]] = {}",
        "tie_word_embeddings ties nothing: a head of its own, drawn at random, that a tied checkpoint does not bring",
    ),
    Mutant(
        "ties-only-in-memory",
        "llama",
        "language_model.py",
        "        self.post_init()\n",
        "        self.post_init()\n        self.all_tied_weights_keys = {}\n"
        "        if config.tie_word_embeddings:\n            self.lm_head.weight = self.model.embed_tokens.weight\n",
        "tied by hand in the constructor: loading on meta breaks it, saving refuses it (seen elsewhere)",
        TIED,
    ),
    Mutant(
        "tied-head-has-its-own-rule",
        "single_head",
        "table_init.py",
        "self.fills.setdefault(id(parameter), Fill(rule, parameter, name))",
        'self.fills[id(parameter)] = Fill(table[-1][1] if "embed" in name else rule, parameter, name)',
        "a tied embedding is filled again by the rule of the head (seen elsewhere)",
    ),
    Mutant(
        "base-model-prefix",
        "mistral",
        "pretrained.py",
        'base_model_prefix = "model"',
        'base_model_prefix = "transformer"',
        "AutoModel does not find its weights in the language model's checkpoint and draws new ones",
    ),
]

LOSS = [
    Mutant(
        "labels-not-shifted",
        "llama",
        "language_model.py",
        "vocab_size=self.config.vocab_size, **kwargs)",
        'vocab_size=self.config.vocab_size, **({"shift_labels": labels} | kwargs))',
        "each token is to predict itself",
    ),
    Mutant(
        "labels-shifted-twice",
        "qwen3",
        "language_model.py",
        "loss = self.loss_function(logits=logits, labels=labels,",
        "loss = self.loss_function(logits=logits, labels=nn.functional.pad(labels[:, 1:], (0, 1), value=-100),",
        "the model shifts labels, and the loss function shifts them again",
    ),
    Mutant(
        "ignore-index-lost",
        "mistral",
        "language_model.py",
        "loss = self.loss_function(logits=logits, labels=labels,",
        "loss = self.loss_function(logits=logits, labels=labels.clamp(min=0),",
        "-100 becomes a target: prompts and padding are trained on",
    ),
    Mutant(
        "num-items-in-batch-ignored",
        "causal_lm",
        "language_model.py",
        "vocab_size=self.config.vocab_size, **kwargs)",
        'vocab_size=self.config.vocab_size, **kwargs | {"num_items_in_batch": None})',
        "a mean for each micro-batch: gradient accumulation weighs tokens by their batch (transformers before 4.46)",
    ),
    Mutant(
        "logits-to-keep-ignored",
        "llama",
        "language_model.py",
        "keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep",
        "keep = slice(None)",
        "logits_to_keep is accepted and ignored",
    ),
    Mutant(
        "logits-to-keep-first",
        "deepone",
        "language_model.py",
        "keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep",
        "keep = slice(logits_to_keep or None) if isinstance(logits_to_keep, int) else logits_to_keep",
        "the first positions are kept, not the last",
    ),
    Mutant(
        "loss-in-parts-not-shifted",
        "qwen3",
        "linear_cross_entropy.py",
        "nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]",
        "labels",
        "the loss without logits has labels that are not shifted",
    ),
    Mutant(
        "loss-in-parts-forgets-the-last",
        "llama",
        "linear_cross_entropy.py",
        "for begin in range(0, tokens, rows)",
        "for begin in range(0, max(tokens - rows + 1, 1), rows)",
        "the last part, which is shorter, is left out where there are several",
    ),
    Mutant(
        "loss-in-parts-keeps-one-gradient",
        "mistral",
        "linear_cross_entropy.py",
        "total.addmm_(gradient.T, hidden)",
        "total.copy_(gradient.T @ hidden)",
        "the gradient of the weight is that of the last part alone",
    ),
    Mutant(
        "loss-in-parts-mean-over-all",
        "single_head",
        "linear_cross_entropy.py",
        "(targets != ignore_index).sum() if num_items_in_batch is None",
        "targets.numel() if num_items_in_batch is None",
        "the mean is taken over ignored tokens too",
    ),
    Mutant(
        "loss-in-parts-gradient-not-scaled",
        "deepone",
        "linear_cross_entropy.py",
        "of.mul_(gradient) if of is not None else None",
        "of",
        "the gradient of a loss that is scaled (accumulation, mixed precision) is that of the loss itself",
    ),
    Mutant(
        "loss-in-parts-counts-ignored",
        "causal_lm",
        "linear_cross_entropy.py",
        ".squeeze(1).masked_fill(~is_target, 0).sum()",
        ".squeeze(1).sum()",
        "ignored tokens add to the loss, but not to its gradient",
    ),
    Mutant(
        "loss-in-parts-ignores-num-items",
        "llama",
        "language_model.py",
        '("num_items_in_batch", "ignore_index", "shift_labels")',
        '("ignore_index", "shift_labels")',
        "num_items_in_batch reaches one of the two losses only",
    ),
    Mutant(
        "skip-logits-dead",
        "mistral",
        "language_model.py",
        'skip_logits = self.training and getattr(self.config, "skip_logits", False)',
        "skip_logits = False",
        "the configuration's skip_logits is accepted and nothing reads it",
    ),
    Mutant(
        "attentions-lost",
        "llama",
        "language_model.py",
        "attentions=outputs.attentions,",
        "attentions=None,",
        "output_attentions is accepted and nothing comes back",
    ),
]

PACKING = [
    Mutant(
        "packing-ignored-with-cache",
        "llama",
        "masks.py",
        "if position_ids is not None and not ready:",
        "if position_ids is not None and cache is None and not ready:",
        "documents see each other as soon as a cache is given (transformers does so)",
    ),
    Mutant(
        "packing-ignored-with-mask",
        "mistral",
        "masks.py",
        "if position_ids is not None and not ready:",
        "if position_ids is not None and attention_mask is None:",
        "documents see each other as soon as an attention mask is given (transformers does so)",
    ),
    Mutant(
        "packing-only-in-training",
        "qwen3",
        "decoder.py",
        "position_ids=position_ids,\n                sliding_window=window,",
        "position_ids=position_ids if self.training else None,\n                sliding_window=window,",
        "evaluation of packed rows sees over the edges of documents",
    ),
    Mutant(
        "packing-leaks-one-token",
        "causal_lm",
        "masks.py",
        "return kv_idx >= starts[batch_idx, q_idx - past_length]",
        "return kv_idx + 1 >= starts[batch_idx, q_idx - past_length]",
        "a document sees the last token of the one before it",
    ),
    Mutant(
        "packing-of-first-row",
        "deepone",
        "masks.py",
        "return kv_idx >= starts[batch_idx, q_idx - past_length]",
        "return kv_idx >= starts[0 * batch_idx, q_idx - past_length]",
        "the documents of the first row stand for those of the batch",
    ),
    Mutant(
        "packing-hides-itself",
        "single_head",
        "masks.py",
        "return kv_idx >= starts[batch_idx, q_idx - past_length]",
        "return kv_idx >= starts[batch_idx, q_idx - past_length] + (q_idx > starts[batch_idx, q_idx - past_length])",
        "the first token of a document is hidden from the rest of it",
    ),
]

GRADIENTS = [
    Mutant(
        "checkpointing-dead",
        "llama",
        "blocks.py",
        "class Block(GradientCheckpointingLayer):",
        "class Block(nn.Module):",
        "gradient_checkpointing_enable() sets a flag that no layer reads",
    ),
    Mutant(
        "gradient-cut-in-residual",
        "qwen3",
        "blocks.py",
        "hidden_states = hidden_states + self.drop(attended)",
        "hidden_states = hidden_states.detach() + self.drop(attended)",
        "a detach in the residual: every weight still has a gradient, of the wrong size",
    ),
    Mutant(
        "gradient-cut-in-keys",
        "causal_lm",
        "attention.py",
        "query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2)",
        "query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2).detach()",
        "keys are detached, as for a cache, and never trained",
    ),
    Mutant(
        "gradient-cut-in-norm",
        "mistral",
        "norms.py",
        "x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)",
        "x = x * torch.rsqrt(x.detach().square().mean(-1, keepdim=True) + self.eps)",
        "the root mean square is taken for a constant in backward",
    ),
    Mutant(
        "gradient-of-sdpa-only",
        "llama",
        "self_attention.py",
        "weights_BHTS = scores_BHTS.softmax(-1)",
        "weights_BHTS = scores_BHTS.detach().softmax(-1)",
        "attention weights are constants in backward, by one implementation",
    ),
]

RUNTIME = [
    Mutant(
        "graph-break",
        "llama",
        "decoder.py",
        "        for layer, window in zip(layers, windows, strict=True):\n",
        "        if bool(hidden_states.isnan().any()):\n"
        '            raise ValueError("not a number")\n'
        "        for layer, window in zip(layers, windows, strict=True):\n",
        "a look at a value in forward breaks the compiled graph and waits for the device",
    ),
    Mutant(
        "graph-break-by-print",
        "deepone",
        "norms.py",
        "        x = hidden_states.float()\n",
        "        x = hidden_states.float()\n        if x.mean().item() > 1e30:\n            return hidden_states\n",
        "an .item() within each norm",
    ),
    Mutant(
        "state-kept-between-calls",
        "single_head",
        "decoder.py",
        "        hidden_states = inputs_embeds\n",
        '        inputs_embeds = inputs_embeds + 1e-3 * getattr(self, "_last", 0.0)\n'
        "        self._last = float(inputs_embeds.mean())\n        hidden_states = inputs_embeds\n",
        "a call depends on the one before, as with RoPE variants that keep the longest length they have seen",
    ),
    Mutant(
        "random-in-eval",
        "qwen3",
        "decoder.py",
        "        hidden_states = inputs_embeds\n",
        "        inputs_embeds = inputs_embeds + 1e-4 * inputs_embeds.new_empty(inputs_embeds.shape).normal_()\n"
        "        hidden_states = inputs_embeds\n",
        "noise for training (NEFTune) that nobody switches off",
    ),
]

OPTIONS = [
    Mutant(
        "num-key-value-heads-dead",
        "llama",
        "modeling_llama.py",
        "num_key_value_heads=c.num_key_value_heads,",
        "num_key_value_heads=c.num_attention_heads,",
        "num_key_value_heads is accepted and every head has keys of its own",
        GROUPED,
    ),
    Mutant(
        "num-key-value-heads-dead-by-default",
        "deepone",
        "modeling_deepone.py",
        "num_key_value_heads=c.num_key_value_heads,",
        "num_key_value_heads=c.num_attention_heads,",
        "the same where the preset does not use it",
    ),
    Mutant(
        "head-dim-dead",
        "qwen3",
        "option_groups.py",
        '"head_dim": self.head_dim or self.hidden_size // self.num_attention_heads,',
        '"head_dim": self.hidden_size // self.num_attention_heads,',
        "head_dim is accepted and derived from the hidden size all the same",
        {"head_dim": 32},
    ),
    Mutant(
        "layer-norm-eps-dead",
        "causal_lm",
        "modeling_causal_lm.py",
        "eps=c.layer_norm_eps",
        "eps=1e-5",
        "layer_norm_eps is accepted and nothing reads it",
        count=2,
    ),
    Mutant(
        "activation-dropout-dead",
        "causal_lm",
        "feed_forward.py",
        "self.down_proj(self.drop(self.act_fn(self.up_proj(hidden_states))))",
        "self.down_proj(self.act_fn(self.up_proj(hidden_states)))",
        "activation_dropout makes a module that nobody calls",
    ),
    Mutant(
        "tie-word-embeddings-dead",
        "llama",
        "language_model.py",
        '_tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}',
        "_tied_weights_keys: ClassVar[dict[str, str]] = {}",
        "tie_word_embeddings is accepted and ties nothing, in a model that is not tied by default",
    ),
    Mutant(
        "layers-one-less",
        "mistral",
        "modeling_mistral.py",
        "for i in range(c.num_hidden_layers)",
        "for i in range(min(c.num_hidden_layers, 4))",
        "num_hidden_layers has a limit that nobody told",
    ),
]

GROUPS = {
    "masks": MASKS,
    "windows": WINDOWS,
    "padding and positions": PADDING_AND_POSITIONS,
    "caches": CACHES,
    "rotation": ROTATION,
    "attention": ATTENTION,
    "ALiBi": ALIBI,
    "blocks": BLOCKS,
    "dropout": DROPOUT,
    "weights and buffers": WEIGHTS,
    "loss": LOSS,
    "packing": PACKING,
    "gradients": GRADIENTS,
    "run time": RUNTIME,
    "options": OPTIONS,
}
MUTANTS = [mutant for group in GROUPS.values() for mutant in group]
