"""Models support the interfaces of transformers: inputs and outputs, precisions, saving and training."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from forgather_core.parts.caches import CACHE

from .cases import ATTENDING, ATTENTION, EVERYTHING_SEEN, SLOPES, empty_cache, made
from .tiny import CASES, DEFINITIONS, OPTIONS, ROPE, TOLERANCE, difference, tiny, tokens

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
def test_hidden_states_are_what_goes_into_each_layer_and_the_normed_last(case: str, attention: str) -> None:
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
def test_attentions_are_shares_of_what_is_seen(case: str) -> None:
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
def test_logits_are_kept_where_they_are_asked_for(case: str) -> None:
    model, ids = made(case), tokens(2, 9)
    logits = model(ids).logits
    assert difference(model(ids, logits_to_keep=3).logits, logits[:, -3:]) <= TOLERANCE
    assert difference(model(ids, logits_to_keep=0).logits, logits) == 0
    assert difference(model(ids, logits_to_keep=torch.tensor([0, 4])).logits, logits[:, [0, 4]]) <= TOLERANCE


@pytest.mark.parametrize("case", DEFINITIONS)
@torch.no_grad()
def test_the_loss_is_of_the_next_token_where_there_is_one(case: str) -> None:
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
def test_a_saved_model_comes_back_as_it_was(definition: str, tied: bool, tmp_path: Path) -> None:
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
def test_a_copy_stands_by_itself(case: str) -> None:
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


# Precision


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype within a block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def slopes_of(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if name.endswith("slopes")}


def check_exact(model: Any, reference: Any, *, dtype: torch.dtype) -> None:
    """Check that weights have the dtype, and that buffers and slopes are float32 with exact values."""
    assert not any(tensor.is_meta for tensor in [*model.buffers(), *model.parameters()])
    assert model.dtype == dtype
    buffers, slopes = dict(reference.named_buffers()), slopes_of(reference)
    assert dict(model.named_buffers()).keys() == buffers.keys()
    for name, buffer in model.named_buffers():
        assert buffer.dtype == torch.float32, name
        assert torch.equal(buffer, buffers[name]), name
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in slopes else dtype), name
        assert parameter.requires_grad == reference.get_parameter(name).requires_grad, name
        if name in slopes:
            assert torch.equal(parameter, slopes[name]), name


KINDS: dict[str, tuple[str, dict[str, Any]]] = CASES | {
    f"llama, {kind}": ("llama", {"rope_parameters": rope}) for kind, rope in ROPE.items()
}


@pytest.mark.few(12)
@pytest.mark.parametrize(("definition", "options"), KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_buffers_and_slopes_are_exact_however_a_model_came_to_be(
    definition: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model, ids = tiny(definition, **options), tokens(1, 40)
    cls, bf16 = type(model), torch.bfloat16
    if slopes_of(model):  # no precision below float32 holds them
        assert all((p.bfloat16().float() != p).any() for p in slopes_of(model).values())
    model.save_pretrained(tmp_path / "float32")
    loaded = cls.from_pretrained(tmp_path / "float32")
    check_exact(loaded, model, dtype=torch.float32)
    assert difference(loaded(ids).logits, model(ids).logits) == 0
    check_exact(cls.from_pretrained(tmp_path / "float32", dtype=bf16), model, dtype=bf16)
    low = tiny(definition, **options).to(bf16)
    check_exact(low, model, dtype=bf16)
    low.save_pretrained(tmp_path / "bfloat16")
    check_exact(cls.from_pretrained(tmp_path / "bfloat16", dtype="auto"), model, dtype=bf16)
    check_exact(tiny(definition, **options).half().double(), model, dtype=torch.float64)
    with default_dtype(bf16):
        built = cls(model.config)
        assert built(ids).logits.dtype == bf16
    built.init_weights()
    fresh = cls(model.config)  # with the slopes that its table says
    check_exact(built, fresh, dtype=bf16)


@pytest.mark.parametrize(("definition", "options"), KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_a_model_without_storage_becomes_a_model(definition: str, options: dict[str, Any]) -> None:
    model = tiny(definition, **options)
    with torch.device("meta"):
        empty = type(model)(model.config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.to_empty(device="cpu")
    for name, buffer in empty.named_buffers():
        assert torch.equal(buffer, model.get_buffer(name))
    empty.init_weights()
    check_exact(empty, type(model)(model.config), dtype=torch.float32)
    assert (empty.lm_head.weight is empty.model.embed_tokens.weight) == model.config.tie_word_embeddings
    empty.load_state_dict(model.state_dict())
    assert difference(empty.eval()(tokens(1, 40)).logits, model(tokens(1, 40)).logits) == 0


@pytest.mark.parametrize("case", [case for case in CASES if "deepone" in case])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_slopes_are_trained_where_that_is_asked_for(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    trained = "fixed" not in case
    model = made(case)
    model.save_pretrained(tmp_path)
    for one in (model, type(model).from_pretrained(tmp_path, dtype=dtype), copy.deepcopy(model).to(dtype)):
        slopes = slopes_of(one)
        assert len(slopes) == LAYERS
        assert all(p.requires_grad == trained for p in slopes.values())
        one.train()(tokens(1, 9), labels=tokens(1, 9)).loss.backward()
        assert all((p.grad is not None) == trained for p in slopes.values())
        assert all(p.grad.dtype == torch.float32 for p in slopes.values() if trained)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_bfloat16_is_close_to_float32(case: str, attention: str) -> None:
    ids = tokens(2, 30)
    model = type(made(case))(made(case, attention=attention).config).eval()  # the weights it begins with
    logits = model(ids).logits
    low = model.to(torch.bfloat16)(ids).logits
    assert low.dtype == torch.bfloat16
    assert 0 < difference(low, logits) <= 2**-5 * logits.abs().max().item()


# Training


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", CASES)
def test_every_parameter_that_is_trained_has_a_gradient(case: str, attention: str) -> None:
    model, ids = made(case, attention=attention).train(), tokens(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert "fixed" in case
            assert name.endswith("slopes")
            continue
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", TRAINED_SLOPES)
def test_the_gradient_of_a_slope_is_how_much_it_moves_the_logits(case: str, attention: str) -> None:
    model, ids = made(case, attention=attention), tokens(2, 12)
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.SiLU()  # a difference says nothing across the kink of a ReLU
    direction = torch.randn(2, 12, OPTIONS["vocab_size"], generator=torch.Generator().manual_seed(4))
    (model(ids).logits * direction).sum().backward()
    step, sums = 3e-3, []
    for slope in slopes_of(model).values():
        with torch.no_grad():
            for sign in (1, -2):
                slope[0] += sign * step
                sums.append((model(ids).logits * direction).double().sum().item())
            slope[0] += step
        plus, minus = sums[-2:]
        assert abs(slope.grad[0].item()) > 0.1
        assert slope.grad[0].item() == pytest.approx((plus - minus) / (2 * step), rel=0.01)


@pytest.mark.few(28)
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", [*ATTENDING, "causal_lm, dropouts"])
def test_gradient_checkpointing_changes_nothing(case: str, attention: str, reentrant: bool) -> None:
    more: dict[str, Any] = {"attention": attention}
    if case == "causal_lm, dropouts":
        case = "causal_lm"
        more |= {f"{name}_dropout": 0.3 for name in DROPOUTS[case]}
    plain, recomputing = made(case, **more).train(), made(case, **more).train()
    recomputing.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    runs: list[int] = []
    recomputing.model.layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    ids, losses = tokens(2, 20), []
    for model in (plain, recomputing):
        torch.manual_seed(3)
        losses.append(model(ids, labels=ids).loss)
        losses[-1].backward()
    assert len(runs) == 2  # forward, and again in backward
    pairs = [losses, *((p.grad, q.grad) for p, q in zip(plain.parameters(), recomputing.parameters(), strict=True))]
    for mine, other in pairs:
        assert (mine is None) == (other is None)
        if mine is not None and attention == "eager":
            assert torch.equal(mine, other)
        elif mine is not None:  # sdpa takes another way where nothing asks for gradients, and rounds otherwise
            assert difference(mine, other) <= TOLERANCE / 10


@pytest.mark.parametrize("case", DEFINITIONS)
def test_gradient_checkpointing_goes_without_a_cache(case: str) -> None:
    model, ids = made(case), tokens(1, 9)
    filled = model(ids[:, :5], use_cache=True)[CACHE]
    model.train().gradient_checkpointing_enable()
    assert model(ids, use_cache=True).get(CACHE) is None
    assert model(ids, past_key_values=empty_cache("dynamic", model)).get(CACHE) is None
    with pytest.raises(ValueError, match="does not support training with a filled cache"):
        model(ids[:, 5:], past_key_values=filled)
    model.eval()  # it is for training alone
    assert model(ids, use_cache=True)[CACHE].get_seq_length() == 9


DROPOUTS = {
    "causal_lm": ("attention", "embedding", "layer", "activation"),
    "deepone": ("attention", "embedding", "layer"),
    "llama": ("attention",),
    "mistral": ("attention",),
    "qwen3": ("attention",),
    "single_head": ("attention", "embedding", "layer"),
}


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize(
    ("definition", "kind"), [(definition, kind) for definition, kinds in DROPOUTS.items() for kind in kinds]
)
@torch.no_grad()
def test_a_dropout_acts_in_training_only(definition: str, kind: str, attention: str) -> None:
    without, ids = made(definition, attention=attention), tokens(1, 20)
    model = made(definition, attention=attention, **{f"{kind}_dropout": 0.5})
    assert difference(model(ids).logits, without(ids).logits) == 0
    assert difference(without.train()(ids).logits, model(ids).logits) == 0
    model.train()
    assert difference(model(ids).logits, model(ids).logits) > 0.01


@pytest.mark.parametrize("definition", [definition for definition, kinds in DROPOUTS.items() if "layer" in kinds])
@torch.no_grad()
def test_what_either_sub_layer_adds_is_dropped(definition: str) -> None:
    model = made(definition, layer_dropout=0.5).train()
    made_by: list[Tensor] = []
    dropped: list[Tensor] = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda _, args, out: made_by.append(out[0]))
        layer.mlp.register_forward_hook(lambda _, args, out: made_by.append(out))
        layer.drop.register_forward_hook(lambda _, args, out: dropped.append(args[0]))
    model(tokens(1, 9))
    assert len(dropped) == 2 * LAYERS
    assert all(one is other for one, other in zip(made_by, dropped, strict=True))


def test_every_dropout_is_tested() -> None:
    for definition, kinds in DROPOUTS.items():
        options = vars(made(definition).config)
        assert {name for name in options if name.endswith("_dropout")} == {f"{kind}_dropout" for kind in kinds}


@pytest.mark.parametrize("wrapper", ["torch's", "a trainer's own"])
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_layers_can_be_wrapped(case: str, wrapper: str) -> None:
    model, ids = made(case), tokens(2, 9)
    logits = model(ids).logits
    wrap = checkpoint_wrapper if wrapper == "torch's" else Watched
    for i in range(LAYERS):
        model.model.layers[i] = wrap(model.model.layers[i])
    assert difference(model(ids).logits, logits) == 0


class Watched(nn.Module):
    """A wrapper as trainers use it: not a Block, but contains one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.inner(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("case", ATTENDING)
def test_one_graph_without_breaks(case: str) -> None:
    torch._dynamo.reset()
    model, ids = made(case).train(), tokens(2, 12)
    compiled = torch.compile(model, fullgraph=True)
    expected = model(ids, labels=ids, use_cache=False).loss
    expected.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    loss = compiled(ids, labels=ids, use_cache=False).loss
    assert abs(loss.item() - expected.item()) <= TOLERANCE
    loss.backward()
    for name, gradient in gradients.items():
        assert difference(model.get_parameter(name).grad, gradient) <= TOLERANCE, name


# Attention implementations


@pytest.mark.parametrize("case", TRAINED_SLOPES)
def test_flash_attention_is_refused_where_it_would_not_train_the_slopes(case: str, tmp_path: Path) -> None:
    model, ids = made(case), tokens(1, 5)
    model.save_pretrained(tmp_path)
    for loaded in (type(model), model.decoder_class):
        with pytest.raises(ValueError, match=r"flash_attention_2.*no gradient; use sdpa"):
            loaded.from_pretrained(tmp_path, attn_implementation="flash_attention_2")
    logits = model(ids).logits
    for one in (model, model.model):
        with pytest.raises(ValueError, match=r"flash_attention_2.*no gradient; use sdpa"):
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
