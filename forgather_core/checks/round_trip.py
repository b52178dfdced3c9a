"""Round trips: weights go to disk and back, by transformers and by Forgather, in every format, and lose nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import load_checkpoint, save_checkpoint
from ..definitions.check import Measured, check, expect
from ..model.build import build
from ..options.shared import BuildOptions
from .options_matter import options_of
from .subject import ModelUnderTest
from .tolerance import compared, unlike

_WAYS = ((torch.float32, False), (torch.bfloat16, True))  # a dtype, and whether in shards


@check("round-trip", cause="tied weights that are saved or loaded apart, names that a loader does not find")
def round_trip(subject: ModelUnderTest) -> Iterator[Measured]:
    """A model that is saved and loaded is the same: weights, ties, dtypes and logits, to the last bit."""
    if any(option.name == "tie_word_embeddings" for option in options_of(subject.config())):
        yield from _tied(subject)
    text = subject.tokens(2)
    for dtype, in_shards in _WAYS:
        model = subject.model()
        model = model if dtype == torch.float32 else _stored(subject, model, dtype)
        with torch.no_grad():
            logits = model(text).logits
        kind = str(dtype).removeprefix("torch.") + (", in shards" if in_shards else "")
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        limit = f"{max(size // 2000, 1)}KB" if in_shards else "5GB"
        with subject.scratch() as place:
            saved = subject.save(model, place, max_shard_size=limit)
            several = len([*saved.glob("*.safetensors")]) > 1
            yield expect(f"save_pretrained, {kind}: so many files", several == in_shards)
            yield from _pretrained(f"save_pretrained, {kind}", subject, saved, model, text, logits)
        for form in ("safetensors", "bin"):
            with subject.scratch() as place:
                save_checkpoint(place / "saved", model, safetensors=form == "safetensors", max_shard_size=limit)
                what = f"save_checkpoint, {form}, {kind}"
                yield from _loaded(what, subject, place / "saved", model, text, logits)


def _tied(subject: ModelUnderTest) -> Iterator[Measured]:
    """Head and embedding are one tensor where the configuration says so, and two where it does not."""
    for tied in (False, True):
        model = subject.fresh_model_of(subject.constructed({"tie_word_embeddings": tied}))
        one = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        yield expect(f"tie_word_embeddings {tied}: head and embedding are {'one' if tied else 'two'}", one == tied)


def _stored(subject: ModelUnderTest, model: Any, dtype: torch.dtype) -> Any:
    """The model in another dtype, as users get it."""
    from transformers import AutoModelForCausalLM

    with subject.scratch() as place:
        saved = subject.save(model, place)
        return AutoModelForCausalLM.from_pretrained(saved, dtype=dtype, **subject.loading)


def _pretrained(
    what: str, subject: ModelUnderTest, saved: Path, model: Any, text: Tensor, logits: Tensor
) -> Iterator[Measured]:
    from transformers import AutoModelForCausalLM

    loaded, told = AutoModelForCausalLM.from_pretrained(
        saved, dtype="auto", output_loading_info=True, **subject.loading
    )
    told = {name: sorted(map(str, found)) for name, found in told.items() if found}
    yield expect(f"{what}: nothing missing, nothing unexpected", not told, str(told))
    yield expect(f"{what}: in eval mode", not loaded.training)
    yield from _same(what, loaded, model, text, logits)


def _loaded(
    what: str, subject: ModelUnderTest, saved: Path, model: Any, text: Tensor, logits: Tensor
) -> Iterator[Measured]:
    dtype = str(model.dtype).removeprefix("torch.")
    options = BuildOptions(
        device="cpu", dtype=dtype, no_init_weights=True, attn_implementation=subject.default_attention
    )
    loaded: Any = build(subject.place, options)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.fill_(torch.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = load_checkpoint(saved, loaded)
    yield expect(f"{what}: nothing missing, nothing unexpected", report.complete, "; ".join(report.problems()))
    # transformers' own compute angles in the dtype that they are made in.
    if model.dtype == torch.float32 or not subject.is_builtin:
        yield from _same(what, loaded.eval(), model, text, logits)


def _same(what: str, loaded: Any, model: Any, text: Tensor, logits: Tensor) -> Iterator[Measured]:
    mine, theirs = _named(loaded), _named(model)
    wrong = unlike(mine, theirs)
    yield expect(f"{what}: {len(theirs)} weights and their dtypes", not wrong, ", ".join(wrong[:3]))
    yield expect(f"{what}: what is tied", _ties(mine) == _ties(theirs), f"{_ties(mine)}, and not {_ties(theirs)}")
    if (head := loaded.get_output_embeddings()) is not None:
        tied = head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
        said = loaded.config.get_text_config().tie_word_embeddings
        yield expect(
            f"{what}: head and embedding are tied, or not, as the configuration says", tied == said, "the head"
        )
    trained = [n for n in mine.keys() & theirs.keys() if mine[n].requires_grad != theirs[n].requires_grad]
    yield expect(f"{what}: what is trained", not trained, ", ".join(trained[:3]))
    with torch.no_grad():
        found = loaded(text).logits
    yield compared(f"{what}: logits", found, logits)


def _named(model: Any) -> dict[str, torch.nn.Parameter]:
    return dict(model.named_parameters(remove_duplicate=False))


def _ties(parameters: dict[str, torch.nn.Parameter]) -> list[list[str]]:
    """The names that share memory, in groups."""
    groups: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(parameter.data_ptr(), []).append(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)
