"""Models support the interfaces of transformers: inputs and outputs, vocabulary, saving, attention implementations."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import pytest
import torch

from .cases import ATTENDING, ATTENTION, EVERYTHING_SEEN, SLOPES, empty_cache, made
from .tiny import CASES, DEFINITIONS, OPTIONS, TOLERANCE, difference, tiny, tokens

LAYERS = OPTIONS["num_hidden_layers"]
TRAINED_SLOPES = [case for case in SLOPES if "fixed" not in case]
TIES = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


# Inputs and outputs


@pytest.mark.regression("P16")
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_keyword_arguments_and_float32_modules_are_declared(definition: str) -> None:
    model = tiny(definition)
    for part in (model, model.model):
        annotation = inspect.signature(part.forward).parameters["kwargs"].annotation
        assert "output_attentions" in getattr(annotation, "__args__", [int])[0].__annotations__
        slopes = any(".alibi." in name for name in part.state_dict())
        assert part._keep_in_fp32_modules_strict == ({"alibi"} if slopes else set())


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_embeddings_as_input_and_tuples_as_output(case: str) -> None:
    model, ids = made(case), tokens(2, 9)
    logits, embeds = model(ids).logits, model.get_input_embeddings()(ids)
    assert difference(model(inputs_embeds=embeds).logits, logits) == 0
    assert difference(model(ids, return_dict=False)[0], logits) == 0
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(ids, inputs_embeds=embeds)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_hidden_states_are_the_input_of_each_layer_and_the_normed_output(case: str, attention: str) -> None:
    model, ids, entered = made(case, attention=attention), tokens(2, 9), []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    out = model(ids, output_hidden_states=True)
    assert len(out.hidden_states) == LAYERS + 1
    for state, expected in zip(out.hidden_states[:-1], entered, strict=True):
        assert torch.equal(state, expected)
    assert torch.equal(out.hidden_states[-1], model.model(ids).last_hidden_state)
    assert torch.equal(model.lm_head(out.hidden_states[-1]), out.logits)
    assert model(ids).hidden_states is None


@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_attention_weights_sum_to_one_over_visible_keys(case: str) -> None:
    model, ids = made(case, attention="eager"), tokens(2, 9)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    heads = 1 if "single_head" in case else 4
    cache = empty_cache("dynamic", model)
    first = model(ids[:, :4], attention_mask=mask[:, :4], past_key_values=cache, output_attentions=True)
    rest = model(ids[:, 4:], attention_mask=mask, past_key_values=cache, output_attentions=True)
    assert [weights.shape for weights in first.attentions] == [(2, heads, 4, 4)] * LAYERS
    assert [weights.shape for weights in rest.attentions] == [(2, heads, 5, 9)] * LAYERS  # the window is not full yet
    for weights in (*first.attentions, *rest.attentions):
        assert difference(weights.sum(-1), torch.ones(weights.shape[:-1])) <= TOLERANCE
    causal = torch.ones(5, 9, dtype=torch.bool).tril(4)
    for weights in rest.attentions:
        assert (weights.masked_select(~causal) == 0).all()
        assert (weights[1, :, :, :3] == 0).all()
        assert (weights[0, :, 0, :5] > 0).all()
    assert model(ids).attentions is None


@pytest.mark.parametrize("case", DEFINITIONS)
@torch.no_grad()
def test_logits_to_keep(case: str) -> None:
    model, ids = made(case), tokens(2, 9)
    logits = model(ids).logits
    assert difference(model(ids, logits_to_keep=3).logits, logits[:, -3:]) <= TOLERANCE
    assert difference(model(ids, logits_to_keep=0).logits, logits) == 0
    assert difference(model(ids, logits_to_keep=torch.tensor([0, 4])).logits, logits[:, [0, 4]]) <= TOLERANCE


@pytest.mark.parametrize("case", DEFINITIONS)
@torch.no_grad()
def test_the_loss_is_that_of_the_next_token(case: str) -> None:
    model, ids = made(case), tokens(2, 9)
    labels = ids.clone()
    labels[0, :4] = labels[1, 8] = -100
    logits = model(ids).logits[:, :-1]
    chances = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    losses = chances[labels[:, 1:] != -100]
    assert len(losses) == 12
    assert abs(model(ids, labels=labels).loss - losses.mean()) <= TOLERANCE
    for count in (5, torch.tensor(5)):  # Trainer counts the targets of all micro-batches
        loss = model(ids, labels=labels, num_items_in_batch=count).loss
        assert abs(loss - losses.sum() / 5) <= TOLERANCE


# Vocabulary, ties, saving


@pytest.mark.parametrize("means", [True, False], ids=["new rows from the old", "new rows from the table"])
@pytest.mark.parametrize("size", [60, 120])
@TIES
@pytest.mark.parametrize("definition", DEFINITIONS)
@torch.no_grad()
def test_the_vocabulary_can_be_resized(definition: str, tied: bool, size: int, means: bool) -> None:
    model, ids = tiny(definition, tie_word_embeddings=tied), tokens(2, 5) % 50
    logits = model(ids).logits
    model.resize_token_embeddings(size, mean_resizing=means)
    resized = model(ids).logits
    assert resized.shape[-1] == model.config.vocab_size == size
    assert difference(resized[..., :60], logits[..., :60]) <= TOLERANCE
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    for weight in (model.lm_head.weight, model.model.embed_tokens.weight):
        assert len(weight) == size
        assert weight[97:].isfinite().all()
        assert (weight[97:].abs().amax(-1) > 0).all()
    assert model(ids, labels=ids).loss.isfinite()


@TIES
@pytest.mark.parametrize("definition", DEFINITIONS)
@torch.no_grad()
def test_a_saved_model_loads_unchanged(definition: str, tied: bool, tmp_path: Path) -> None:
    model, ids = tiny(definition, tie_word_embeddings=tied), tokens(2, 9)
    model.save_pretrained(tmp_path)
    loaded, said = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(said.values())
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert not loaded.training
    assert difference(loaded(ids).logits, model(ids).logits) == 0
    headless = model.decoder_class.from_pretrained(tmp_path)
    assert difference(headless(ids).last_hidden_state, model.model(ids).last_hidden_state) == 0


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_copy_is_independent(case: str) -> None:
    model, ids = made(case), tokens(2, 9)
    logits, other = model(ids).logits, copy.deepcopy(model)
    assert difference(other(ids).logits, logits) == 0
    for parameter in model.parameters():
        parameter.zero_()
    assert difference(other(ids).logits, logits) == 0


@pytest.mark.parametrize("case", DEFINITIONS)
def test_initialising_again_draws_again_and_a_load_is_not_overwritten(case: str, tmp_path: Path) -> None:
    model = made(case)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.save_pretrained(tmp_path)
    for name, parameter in type(model).from_pretrained(tmp_path).named_parameters():
        assert torch.equal(parameter, before[name]), name
    drawn = []
    for _ in range(2):
        model.init_weights()
        drawn.append({name: p.detach().clone() for name, p in model.named_parameters()})
        assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())
    matrices = [name for name, p in model.named_parameters() if p.dim() == 2]
    assert not any(torch.equal(drawn[0][name], drawn[1][name]) for name in matrices)


# Attention implementations


@pytest.mark.parametrize("case", TRAINED_SLOPES)
def test_flash_attention_is_refused_with_trainable_slopes(case: str, tmp_path: Path) -> None:
    model, ids = made(case), tokens(1, 5)
    model.save_pretrained(tmp_path)
    for loaded in (type(model), model.decoder_class):
        with pytest.raises(ValueError, match=r"flash_attention_2.*no gradient for the slopes of ALiBi; use sdpa"):
            loaded.from_pretrained(tmp_path, attn_implementation="flash_attention_2")
    logits = model(ids).logits
    for one in (model, model.model):
        with pytest.raises(ValueError, match=r"flash_attention_2.*no gradient for the slopes of ALiBi; use sdpa"):
            one.set_attn_implementation("flash_attention_2")
        assert one.config._attn_implementation == "sdpa"
    assert difference(model(ids).logits, logits) == 0


@pytest.mark.parametrize("case", ATTENDING)
def test_flash_attention_is_allowed_for_all_others(case: str) -> None:
    refused = made(case).config.unsupported_attention()
    assert ("flash_attention_2" in refused) == (case in TRAINED_SLOPES)
    assert not refused.keys() & {"eager", "sdpa", "flex_attention"}


@pytest.mark.parametrize("case", EVERYTHING_SEEN)
@torch.no_grad()
def test_the_attention_implementation_can_be_changed(case: str) -> None:
    model, ids = made(case), tokens(2, 9)
    logits = model(ids).logits
    model.set_attn_implementation("eager")
    assert model(ids, output_attentions=True).attentions
    assert difference(model(ids).logits, logits) <= TOLERANCE
