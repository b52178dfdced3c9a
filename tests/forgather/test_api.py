"""The Python interface: each function does what its command does, quietly."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import forgather as fg
from forgather.calls import Call
from forgather_core.errors import ConfigurationError, DirectoryError, UnknownDefinitionError
from forgather_core.options.aliases import RenamedOptionWarning
from forgather_core.options.by_command import COMMAND_OPTIONS
from forgather_core.options.spec import specs_of
from tests.support.settings import SMALLEST


@pytest.fixture
def small(tmp_path: Path) -> fg.ResolvedModel:
    return fg.resolve("llama", **SMALLEST, output_dir=tmp_path / "small", device="cpu")


def test_import_is_light_and_has_every_public_name() -> None:
    code = (
        "import sys, forgather\n"
        "assert not {'torch', 'transformers', 'datasets', 'rich', 'typer'} & sys.modules.keys()\n"
        "assert all(hasattr(forgather, name) for name in forgather.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'constuct'"):
        fg.constuct  # noqa: B018


def test_list_models_has_the_names_that_functions_accept(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: llama/4M\n")
    models = fg.list_models(tmp_path)
    assert "llama/4M" in models.names
    assert str(tmp_path / "mine.yaml") in models.names
    assert fg.resolve("mine", project=tmp_path).model_name == "mine"


def test_options_are_keywords(small: fg.ResolvedModel) -> None:
    assert small.options.hidden_size == 32
    assert small.config["vocab_size"] == 300
    assert small.to_dict()["options"]["hidden_size"] == {"value": 32, "origin": "--hidden-size"}
    assert repr(small) == "<ResolvedModel llama/4M: llama_4m>"
    assert small._repr_html_() == fg.ShownModel(small.to_dict(), small)._repr_html_()


def test_show_has_the_sources_and_the_initialization() -> None:
    shown = fg.show("llama", **SMALLEST, init=True)
    assert shown.resolved.options.hidden_size == 32
    assert shown.to_dict()["initial_weights"]
    assert "initial_weights" not in fg.show("llama").to_dict()


def test_construct_builds_and_saves(small: fg.ResolvedModel, tmp_path: Path) -> None:
    made = fg.construct("llama", **SMALLEST, output_dir=tmp_path / "made", device="cpu", save_checkpoint=True)
    assert made.directory == tmp_path / "made"
    assert made.saved is not None and made.saved.tensors > 0
    assert made.loaded is None
    assert made.parameters == sum(p.numel() for p in made.model.parameters())
    assert made.to_dict()["parameters"]["total"] == made.parameters
    assert "created" in repr(made)
    for report in (made, made.saved):
        assert report._repr_html_().startswith('<div class="fg')
    again = fg.construct(
        "llama", **SMALLEST, output_dir=tmp_path / "made", device="cpu", load_from_checkpoint=made.directory
    )
    assert again.state == "reused"
    assert again.loaded is not None and again.loaded.complete
    for one, other in zip(made.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_a_place_the_directory_is_temporary_and_reused() -> None:
    first, second = fg.construct("llama", **SMALLEST), fg.construct("llama", **SMALLEST)
    assert (first.state, second.state) == ("created", "reused")
    assert first.directory == second.directory
    other = fg.construct("llama", **SMALLEST | {"hidden_size": 64})
    assert other.directory != first.directory
    assert Path.cwd() not in first.directory.parents


def test_temporary_directories_are_removed_at_exit() -> None:
    code = "import forgather as fg; print(fg.construct('llama/4M', num_hidden_layers=1).directory)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    directory = Path(run.stdout.strip())
    assert directory.name == "llama_4m"
    assert not directory.exists()


def test_training_check(small: fg.ResolvedModel) -> None:
    check = fg.test(small, steps=3, batch_size=1, sequence_length=16)
    assert len(check.losses) == 3
    assert check.first_batch_decrease is not None and check.first_batch_decrease > 0
    assert check.parameters == check.to_dict()["parameters"]["total"]


def test_training_check_on_meta_has_no_loss(tmp_path: Path) -> None:
    check = fg.test("llama", **SMALLEST, output_dir=tmp_path / "meta")
    assert check.losses == ()
    assert check.first_batch_decrease is None


def test_verify_a_model_and_a_directory(small: fg.ResolvedModel) -> None:
    of_model = fg.verify(small, checks="causality,padding")
    assert of_model.ok
    assert set(of_model.passed) == {"causality", "padding"}
    of_directory = fg.verify(small.target(), checks="causality")
    assert of_directory.passed == ("causality",)
    skipping = fg.verify(small.target(), checks="sliding-window")
    assert (skipping.ok, skipping.skipped) == (False, ("sliding-window",))
    assert "0 passed, 0 failed, 1 skipped" in repr(skipping)
    assert {"causality", "padding"} < set(fg.list_checks().names)
    assert fg.list_checks(checks="padding").names == ("padding",)


def test_estimate_and_compare(small: fg.ResolvedModel) -> None:
    estimate = fg.estimate(small, batch_size=1, sequence_length=16)
    report = estimate.to_dict()
    assert estimate.parameters == report["parameters"]["total"]
    assert estimate.training_memory == report["training"]["peak"] > 0
    assert estimate.flops_per_token == report["flops"]["training"] > 0
    assert estimate.parallel is None
    assert estimate.wire_bytes == 0
    comparison = fg.compare(small, "qwen3/4M", batch_size=1, sequence_length=16)
    assert comparison.models == ("llama/4M", "qwen3/4M")
    assert comparison.differences["hidden_size"] == [32, 256]


def test_estimate_of_a_device_of_a_mesh() -> None:
    short = {"num_hidden_layers": 1, "hidden_size": 32, "max_position_embeddings": 16, "sequence_length": 16}
    whole, part = (fg.estimate("llama", **short, batch_size=1, parallel=mesh) for mesh in (None, "fsdp=2"))
    assert part.parallel is not None
    assert (part.parallel["mesh"], part.parallel["devices"]) == ("fsdp=2", 2)
    assert part.wire_bytes == part.parallel["bytes"] > 0
    assert part.parameters == whole.parameters
    assert part.to_dict()["training"]["weights"] == whole.to_dict()["training"]["weights"] / 2


def test_options_of_a_definition_apply_to_the_first_model() -> None:
    comparison = fg.compare("llama/4M", "llama/4M", hidden_size=128, batch_size=1, sequence_length=16)
    assert comparison.differences["hidden_size"] == [128, 256]


def test_checkpoints(small: fg.ResolvedModel, tmp_path: Path) -> None:
    model = fg.construct(small).model
    fg.save_checkpoint(tmp_path / "saved", model, safetensors=True)
    info = fg.inspect_checkpoint(tmp_path / "saved", verify_checksums=True)
    assert set(info.tensors) == set(model.state_dict())
    report = fg.convert_checkpoint(tmp_path / "saved", tmp_path / "half", dtype="bfloat16")
    assert report.path == tmp_path / "half"
    assert fg.load_checkpoint(tmp_path / "half", model).complete


def test_nothing_is_printed_and_no_signal_handler_is_installed(
    small: fg.ResolvedModel, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    fg.construct(small, refresh_model=True)
    fg.test(small, steps=2, batch_size=1, sequence_length=16)
    fg.verify(small, checks="causality")
    fg.estimate(small, batch_size=1, sequence_length=16)
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_is_reported_to_callbacks(small: fg.ResolvedModel) -> None:
    items: list[str] = []
    steps: list[int] = []
    fg.verify(small, checks="causality", progress=fg.Progress(item=items.append))
    fg.test(
        small,
        steps=2,
        batch_size=1,
        sequence_length=16,
        progress=fg.Progress(step=lambda step: steps.append(step.step)),
    )
    assert items == ["causality"]
    assert steps == [1, 2]


def test_partial_results_are_handed_over(small: fg.ResolvedModel, tmp_path: Path) -> None:
    kept: list[fg.Verification] = []

    def stop(name: str) -> None:
        if name == "padding":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        progress = fg.Progress(item=stop, partial=kept.append)
        fg.verify(small, checks="causality,padding", junit=tmp_path / "partial.xml", progress=progress)
    assert kept[0].passed == ("causality",)
    assert any("interrupted" in note for note in kept[0].notes)
    assert "causality" in (tmp_path / "partial.xml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: fg.construct("llama", hidden_siz=3), r"construct\(\) has no option 'hidden_siz'. Did you mean"),
        (lambda: fg.estimate("llama", json=True), r"estimate\(\) has no option 'json'"),
        (lambda: fg.verify(Path("x"), refresh_model=True), r"verify\(\) has no option 'refresh_model'"),
        (lambda: fg.compare("llama"), "requires two models"),
        (lambda: fg.construct(fg.resolve("llama"), hidden_size=3), r"pass hidden_size to resolve\(\)"),
        (lambda: fg.resolve("llama", like="a", from_config="b"), "like is the former name of from_config"),
    ],
)
def test_wrong_keywords_are_type_errors(call: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        call()


def test_expected_errors_have_fields() -> None:
    with pytest.raises(ConfigurationError) as error:
        fg.estimate("llama", batch_size="many")
    assert (error.value.option, error.value.problem) == ("batch_size", "expected an integer, got 'many'")
    with pytest.raises(ConfigurationError, match=r"^steps has no effect on 'estimate'"):
        fg.estimate("llama", steps=3)
    with pytest.raises(ConfigurationError, match=r"^packing requires packed=True"):
        fg.test("llama", packing="greedy", device="cpu")
    with pytest.raises(UnknownDefinitionError, match="Did you mean 'llama'"):
        fg.resolve("lama")
    assert issubclass(DirectoryError, fg.ForgatherError)


def test_former_names_of_options_work(tmp_path: Path) -> None:
    with pytest.warns(RenamedOptionWarning, match="context is now context_length"):
        estimate = fg.estimate("llama", **SMALLEST, batch_size=1, sequence_length=16, context=64)
    assert estimate.to_dict()["generation"]["context_length"] == 64


def test_random_numbers_of_the_caller_stay_as_they_are(small: fg.ResolvedModel) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    made = fg.construct(small)
    fg.test(small, steps=1, batch_size=1, sequence_length=16)
    fg.verify(made.directory, checks="causality")
    assert torch.initial_seed() == 5
    assert torch.equal(torch.rand(3), expected)


def test_interrupted_training_check_has_a_page(small: fg.ResolvedModel) -> None:
    kept: list[Any] = []

    def stop(step: Any) -> None:
        if step.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        progress = fg.Progress(step=stop, partial=kept.append)
        fg.test(small, steps=3, batch_size=1, sequence_length=16, progress=progress)
    assert len(kept[0].losses) == 2
    assert kept[0].first_batch_decrease is None
    assert "ended early" in kept[0]._repr_html_()


def test_output_directory_of_a_file_is_permanent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("extends: llama/4M\noutput_dir: out\ntokenizer: bytes\n")
    assert fg.construct("mine").directory.resolve() == tmp_path / "out"


def test_suggestions_are_options_of_the_function(small: fg.ResolvedModel) -> None:
    with pytest.raises(TypeError, match=r"has no option 'lits': see help\(forgather\.test\)$"):
        fg.test(small, lits=True)


def test_false_is_never_refused(tmp_path: Path) -> None:
    made = fg.construct("llama", **SMALLEST, output_dir=tmp_path / "m", save_checkpoint=False, safetensors=False)
    assert made.saved is None


def test_verify_suggests_the_path_of_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UnknownDefinitionError, match=r"with Path\("):
        fg.verify(str(tmp_path))


def test_directory_name_that_is_no_identifier_is_not_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fg.construct("llama", **SMALLEST, output_dir=tmp_path / "my model")
    assert capfd.readouterr() == ("", "")


def test_former_name_is_reported_where_it_is_used() -> None:
    with pytest.warns(RenamedOptionWarning) as found, pytest.raises(fg.ForgatherError):
        fg.resolve("llama/4M", like="/does/not/exist")
    assert found[0].filename == __file__


CHOICES = [
    (function, spec.name, choice)
    for function, group in COMMAND_OPTIONS.items()
    for spec in specs_of(group)
    if isinstance(spec.kind, tuple)
    for choice in spec.kind
]


@pytest.mark.parametrize(("function", "name", "choice"), CHOICES)
def test_every_choice_of_an_option_is_accepted_by_its_function(function: str, name: str, choice: str) -> None:
    needed = {"packed": True, "device": "cpu"} if function == "test" else {}
    call = Call(function, "llama", None, {name: choice, **needed})
    assert getattr(call.take(COMMAND_OPTIONS[function]), name) == choice
