"""Defects of transformers' models that `scoreboard.py` finds, each with a program that shows it without Forgather.

Each program continues `SETUP`, which has the type as `KIND`, and ends by printing whether the defect shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SETUP = """\
import torch
from transformers import AutoConfig, AutoModelForCausalLM

torch.manual_seed(0)
config = AutoConfig.from_pretrained("scoreboard/KIND")  # small; see below
model = AutoModelForCausalLM.from_config(config).eval()
for weight in model.parameters():
    weight.data.normal_(std=0.3) if weight.dim() > 1 else None
text = torch.arange(40, 60)[None]


def logits(text, **more):  # of the tokens that generate() adds
    how = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    result = model.generate(text, **how, **more, output_logits=True, return_dict_in_generate=True)
    return torch.stack(result.logits)
"""


@dataclass(frozen=True)
class Defect:
    """A defect.

    Args:
        name: A short name.
        text: What is wrong, and when, in a few sentences.
        checks: The checks that fail.
        program: Up to five lines that follow `SETUP`, and print True if the defect shows.
        types: The model types that have it.
    """

    name: str
    text: str
    checks: tuple[str, ...]
    program: str
    types: tuple[str, ...]


DEFECTS = (
    Defect(
        "packed documents leak",
        "Positions that start again separate packed documents in transformers' masks. These classes take position_ids "
        "and compute positions from them, but their masks, or the states of recurrent layers, ignore them: a document "
        "sees those before it.",
        ("packing-isolation",),
        """\
positions = torch.arange(10).repeat(2)[None]
packed = model(text, position_ids=positions, use_cache=False).logits[0, 10:]
alone = model(text[:, 10:], position_ids=positions[:, :10], use_cache=False).logits[0]
print(bool((packed - alone).abs().max() > 1e-2))""",
        (),
    ),
    Defect(
        "padding on the left moves the text",
        "Positions are columns, so that padding on the left changes them, and the class takes no position_ids. A batch "
        "of prompts of different lengths gives other tokens than each prompt alone.",
        ("padding", "generation", "kv-cache", "call-agreement"),
        """\
padding = torch.ones(1, 4, dtype=torch.long)
padded, mask = torch.cat([padding, text], 1), torch.cat([0 * padding, torch.ones_like(text)], 1)
print(bool((logits(padded, attention_mask=mask)[0] - logits(text)[0]).abs().max() > 1e-2))""",
        (),
    ),
    Defect(
        "given positions start at another number",
        "Without position_ids, positions start after the id of padding, as in RoBERTa. generate() passes position_ids "
        "that start at 0, so it predicts other tokens than forward().",
        ("positions", "padding", "generation", "kv-cache", "call-agreement"),
        """\
print(bool((logits(text)[0, 0] - model(text).logits[0, -1]).abs().max() > 1e-2))""",
        (),
    ),
    Defect(
        "labels are not shifted",
        "The loss compares the logits of a token with the label of the same token, not of the next one, as all other "
        "causal language models do: a model that is trained with labels=input_ids learns to copy.",
        ("loss", "call-agreement"),
        """\
outputs = model(text, labels=text)
next_token = torch.nn.functional.cross_entropy(outputs.logits[0, :-1], text[0, 1:])
print(bool((outputs.loss - next_token).abs() > 1e-2))""",
        (),
    ),
    Defect(
        "the caller's embeddings are scaled in place",
        "forward() multiplies inputs_embeds in place: the caller's tensor changes, a second call gives other logits, "
        "and embeddings that require a gradient raise an error.",
        ("causality", "inputs-embeds", "call-state"),
        """\
embeddings = model.get_input_embeddings()(text).detach()
before = embeddings.clone()
model(inputs_embeds=embeddings)
print(not torch.equal(before, embeddings))""",
        (),
    ),
    Defect(
        "a state is not continued by several tokens",
        "A recurrent layer with a state in the cache starts again if a call has more than one new token: a second turn "
        "of a chat, or a prompt read in pieces, gives other logits than the whole text.",
        ("kv-cache", "call-agreement"),
        """\
cache = model(text[:, :10], use_cache=True).cache
later = model(text[:, 10:], cache=cache, use_cache=True).logits
print(bool((later - model(text, use_cache=False).logits[:, 10:]).abs().max() > 1e-2))""",
        (),
    ),
    Defect(
        "the cache changes the prediction",
        "Tokens that are generated with a cache have other logits than without one.",
        ("kv-cache", "call-agreement", "generation", "attention-backends"),
        """\
print(bool((logits(text, use_cache=True) - logits(text, use_cache=False)).abs().max() > 1e-2))""",
        (),
    ),
    Defect(
        "buffers are not initialized after meta",
        "init_weights() after to_empty() leaves buffers that only the constructor computes uninitialized, as when a "
        "model is sharded on the meta device and then materialized.",
        ("buffers",),
        """\
with torch.device("meta"):
    other = AutoModelForCausalLM.from_config(config)
[tensor.fill_(float("nan")) for tensor in other.to_empty(device="cpu").buffers() if tensor.is_floating_point()]
other.init_weights()
print(any(tensor.isnan().any().item() for tensor in other.buffers()))""",
        (),
    ),
    Defect(
        "frozen parameters are trainable after loading",
        "A parameter that the constructor freezes (a bias of the router, set without a gradient) requires a gradient "
        "after from_pretrained().",
        ("round-trip",),
        """\
model.save_pretrained("saved")
loaded = AutoModelForCausalLM.from_pretrained("saved")
trained = [{n for n, p in one.named_parameters() if p.requires_grad} for one in (model, loaded)]
print(trained[0] != trained[1])""",
        (),
    ),
    Defect(
        "parameters without a gradient",
        "Some parameters never receive a gradient in training on text: the part that selects keys runs without "
        "gradients, or a module is never called. An optimizer leaves them at their initial values.",
        ("gradients",),
        """\
model.train()(text, labels=text).loss.backward()
print([name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] != [])""",
        (),
    ),
    Defect(
        "sdpa receives a mask that it does not need",
        "Without padding, scaled_dot_product_attention gets a mask instead of is_causal, so that its flash kernel "
        "cannot run.",
        ("attention-cost",),
        """\
calls, sdpa = [], torch.nn.functional.scaled_dot_product_attention
spy = lambda *a, **k: calls.append(k.get("attn_mask") is not None or len(a) > 3 and a[3] is not None) or sdpa(*a, **k)
torch.nn.functional.scaled_dot_product_attention = spy
model(text, use_cache=False)
print(any(calls))""",
        (),
    ),
    Defect(
        "ALiBi in 16 bits",
        "The distances of ALiBi are computed in the dtype of the weights. bfloat16 represents integers up to 256 "
        "exactly, so the error of logits grows with the position.",
        ("precision",),
        """\
long = torch.randint(5, 290, (1, 640))
low = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
low.load_state_dict(model.state_dict())
error = (low(long).logits.float() - model(long).logits)[0].square().mean(1)
print(bool(error[-96:].mean() > 4 * error[:96].mean()))""",
        (),
    ),
    Defect(
        "head and embedding are tied, and the configuration denies it",
        "The head shares the weight of the embedding although tie_word_embeddings is false, or has its own although it "
        "is true.",
        ("round-trip",),
        """\
tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
print(tied != config.tie_word_embeddings)""",
        (),
    ),
    Defect(
        "flex_attention raises an error",
        "The class is marked as one that supports flex_attention, whose result it reshapes with view(), which requires "
        "another layout.",
        ("attention-backends",),
        """\
model.set_attn_implementation("flex_attention")
try:
    print(not torch.isfinite(model(text, use_cache=False).logits).all())
except RuntimeError as error:
    print("view" in str(error))""",
        (),
    ),
)


def defects_of(kind: str) -> list[Defect]:
    """Return the defects of a model type."""
    return [defect for defect in DEFECTS if kind in defect.types]


def unexplained(kind: str, failures: Mapping[str, list[str]]) -> list[str]:
    """Return the checks that fail on a model type, and that no defect in the list explains."""
    explained = {name for defect in defects_of(kind) for name in defect.checks}
    return [name for name in failures if name not in explained]
