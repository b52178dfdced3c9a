"""Round trip: saving and loading preserves a model, with transformers and with Forgather, in every format."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import load_checkpoint, save_checkpoint
from ..definitions.check import Measured, check, expect
from ..filesystem.strict_json import read_object
from ..model.build import build
from ..options.shared import BuildOptions
from .shared.model_under_test import ModelUnderTest
from .shared.option_fields import options_of
from .shared.reloaded import align, reloaded
from .shared.tolerance import compare, different_tensors

_CLASSIFIERS = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification")
_WAYS = ((torch.float32, False), (torch.bfloat16, True))  # dtype, sharded


@check("round-trip", cause="tied weights that are saved or loaded separately, or names that a loader does not find")
def round_trip(subject: ModelUnderTest) -> Iterator[Measured]:
    """Saving and loading preserves weights, ties, dtypes and logits, to the last bit."""
    if any(option.name == "tie_word_embeddings" for option in options_of(subject.config())):
        yield from _check_ties(subject)
    yield from _check_auto_classes(subject)
    yield _check_incomplete(subject)
    text = subject.tokens(2)
    for dtype, sharded in _WAYS:
        model = subject.randomized_model()
        if dtype != torch.float32:
            model = reloaded(subject, model, dtype)
            align(model)
        with torch.no_grad():
            logits = model(text).logits
        kind = str(dtype).removeprefix("torch.") + (", sharded" if sharded else "")
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        limit = f"{max(size // 2000, 1)}KB" if sharded else "5GB"
        with subject.scratch() as directory:
            saved = subject.save(model, directory, max_shard_size=limit)
            several = len([*saved.glob("*.safetensors")]) > 1
            files = "several files" if sharded else "one file"
            yield expect(f"save_pretrained, {kind}: {files}", several == sharded)
            yield from _check_pretrained(f"save_pretrained, {kind}", subject, saved, model, text, logits)
        for form in ("safetensors", "bin"):
            with subject.scratch() as directory:
                save_checkpoint(directory / "saved", model, safetensors=form == "safetensors", max_shard_size=limit)
                what = f"save_checkpoint, {form}, {kind}"
                yield from _check_checkpoint(what, subject, directory / "saved", model, text, logits)


def _check_ties(subject: ModelUnderTest) -> Iterator[Measured]:
    """Check that head and embedding are one tensor if `tie_word_embeddings` is true, and two if not."""
    for tied in (False, True):
        model = subject.fresh_model_of(subject.constructed({"tie_word_embeddings": tied}))
        one = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        yield expect(
            f"tie_word_embeddings {tied}: head and embedding are {'one tensor' if tied else 'two tensors'}", one == tied
        )
    yield _check_base_of_tied(subject, model)


def _check_base_of_tied(subject: ModelUnderTest, model: Any) -> Measured:
    """Check that AutoModel, which has no head, finds the tied weight in a saved model."""
    from transformers import AutoModel

    with subject.scratch() as directory:
        saved = subject.save(model, directory)
        _, info = AutoModel.from_pretrained(saved, output_loading_info=True, **subject.loading)
    missing = sorted(info["missing_keys"])
    failure = f"a saved tied model lacks weights of AutoModel, which initializes them: {', '.join(missing[:3])}"
    return expect("AutoModel loads a tied model", not missing, failure=failure)


def _check_auto_classes(subject: ModelUnderTest) -> Iterator[Measured]:
    """Check that the model of each Auto class is saved with its class, and loaded again, if the directory has code."""
    import transformers

    auto_map = getattr(subject.config(), "auto_map", None) or {}
    more = _CLASSIFIERS if subject.made_by_forgather else ()
    for name in sorted({*auto_map, *more} if auto_map else ()):
        if not name.startswith("AutoModel"):
            continue
        auto_class = getattr(transformers, name)
        try:
            model = auto_class.from_config(subject.config(), **subject.loading)
        except ValueError:
            if name in auto_map:
                raise
            continue  # the directory has no classifier
        with subject.scratch() as directory:
            saved = subject.save(model, directory)
            entry = read_object(saved / "config.json").get("auto_map", {}).get(name, "no class")
            failure = f"{name}: the saved config.json names {entry}, which is not {type(model).__name__}"
            yield expect(
                f"{name}: its class is saved", _class_of(entry, saved) == type(model).__name__, failure=failure
            )
            loaded, info = auto_class.from_pretrained(saved, output_loading_info=True, **subject.loading)
        missing = sorted(info["missing_keys"])
        failure = f"{name}: loading lacks {', '.join(missing[:3])}"
        yield expect(f"{name}: all weights are loaded", not missing, failure=failure)
        wrong = different_tensors(dict(loaded.named_parameters()), dict(model.named_parameters()))
        yield expect(f"{name}: loaded weights are equal", not wrong, ", ".join(wrong[:3]))


def _class_of(entry: str, directory: Path) -> str | None:
    """Return the name of the class that an entry of auto_map loads, or None."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        found: str = get_class_from_dynamic_module(entry, str(directory)).__name__
    except (AttributeError, OSError, ValueError):  # no such class, no such file, not an entry
        return None
    return found


def _check_incomplete(subject: ModelUnderTest) -> Measured:
    """Check that loading a checkpoint that lacks one parameter of each module keeps the other weights."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    model = subject.randomized_model()
    lacking = {f"{path}.{[*module._parameters][-1]}" for path, module in model.named_modules() if module._parameters}
    with subject.scratch() as directory:
        saved = subject.save(model, directory)
        file = saved / "model.safetensors"
        kept = {name: tensor for name, tensor in load_file(file).items() if name not in lacking}
        if not kept:  # no module has two parameters: leave out every other one
            kept = dict([*load_file(file).items()][::2])
        save_file(kept, file, metadata={"format": "pt"})
        loaded = AutoModelForCausalLM.from_pretrained(saved, **subject.loading)
    found = {name: one.detach() for name, one in loaded.named_parameters(remove_duplicate=False) if name in kept}
    wrong = different_tensors(found, {name: kept[name] for name in found})
    failure = "weights of a checkpoint that lacks others are not loaded, or overwritten"
    return expect("an incomplete checkpoint: its weights are loaded", not wrong, ", ".join(wrong[:3]), failure=failure)


def _check_pretrained(
    what: str, subject: ModelUnderTest, saved: Path, model: Any, text: Tensor, logits: Tensor
) -> Iterator[Measured]:
    from transformers import AutoModelForCausalLM

    loaded, info = AutoModelForCausalLM.from_pretrained(
        saved, dtype="auto", output_loading_info=True, **subject.loading
    )
    problems = {name: sorted(map(str, found)) for name, found in info.items() if found}
    failure = f"{what}: expected no missing and no unexpected keys, got {problems}"
    yield expect(f"{what}: no missing and no unexpected keys", not problems, failure=failure)
    yield expect(f"{what}: the model is in eval mode", not loaded.training)
    yield from _compare_models(what, loaded, model, text, logits)


def _check_checkpoint(
    what: str, subject: ModelUnderTest, saved: Path, model: Any, text: Tensor, logits: Tensor
) -> Iterator[Measured]:
    dtype = str(model.dtype).removeprefix("torch.")
    options = BuildOptions(
        device="cpu", dtype=dtype, no_init_weights=True, attn_implementation=subject.default_attention
    )
    loaded: Any = build(subject.workdir, options)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.fill_(torch.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = load_checkpoint(saved, loaded)
    failure = f"{what}: {'; '.join(report.problems())}"
    yield expect(f"{what}: no missing and no unexpected keys", report.complete, failure=failure)
    # transformers' own classes compute angles in the dtype in which they are built.
    if model.dtype == torch.float32 or subject.made_by_forgather:
        yield from _compare_models(what, loaded.eval(), model, text, logits)


def _compare_models(what: str, loaded: Any, model: Any, text: Tensor, logits: Tensor) -> Iterator[Measured]:
    actual, wanted = _named(loaded), _named(model)
    wrong = different_tensors(actual, wanted)
    yield expect(f"{what}: {len(wanted)} weights and their dtypes are equal", not wrong, ", ".join(wrong[:3]))
    tied, expected = _ties(actual), _ties(wanted)
    failure = f"{what}: tied weights: expected {expected}, got {tied}"
    yield expect(f"{what}: the same weights are tied", tied == expected, failure=failure)
    if (head := loaded.get_output_embeddings()) is not None:
        is_tied = head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
        configured = bool(getattr(loaded.config.get_text_config(), "tie_word_embeddings", False))
        yield expect(
            f"{what}: head and embedding are tied if tie_word_embeddings is true", is_tied == configured, "the head"
        )
    trained = [n for n in actual.keys() & wanted.keys() if actual[n].requires_grad != wanted[n].requires_grad]
    yield expect(f"{what}: the same weights are trainable", not trained, ", ".join(trained[:3]))
    align(loaded)
    with torch.no_grad():
        found = loaded(text).logits
    yield compare(f"{what}: logits", found, logits)


def _named(model: Any) -> dict[str, torch.nn.Parameter]:
    return dict(model.named_parameters(remove_duplicate=False))


def _ties(parameters: dict[str, torch.nn.Parameter]) -> list[list[str]]:
    """Return the groups of names that share memory."""
    groups: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(parameter.data_ptr(), []).append(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)
