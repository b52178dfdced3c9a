"""Keywords of the Python interface: unknown ones are refused with the nearest name, and errors name them."""

from __future__ import annotations

import importlib.metadata
import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import forgather as fg
from forgather.keywords import with_keywords
from forgather.ml import no_init_weights, sharded_checkpoint, utils
from forgather_core.errors import CheckError, ConfigurationError, DataError
from tests.support.settings import SMALLEST

# An option of each function that takes those of its command.
OPTIONS = {
    "resolve": "hidden_size",
    "show": "init",
    "construct": "device",
    "test": "steps",
    "train": "tokens",
    "sample": "top_p",
    "evaluate": "held_out",
    "verify": "quick",
    "list_checks": "quick",
    "estimate": "batch_size",
    "compare": "batch_size",
}


def public() -> Iterator[tuple[str, Any]]:
    for module in (fg, sharded_checkpoint, utils, no_init_weights):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) or value is fg.Progress:
                yield f"{module.__name__}.{name}", value


def misspelt() -> Iterator[Any]:
    """Each public function with one misspelt keyword, its arguments, and the right name."""
    for path, function in public():
        name, parameters = path.rpartition(".")[2], inspect.signature(function).parameters.values()
        is_open = any(one.kind is one.VAR_KEYWORD for one in parameters)
        several = any(one.kind is one.VAR_POSITIONAL for one in parameters)
        models = ("llama/4M", "qwen3/4M") if several else ("llama/4M",) if is_open else ()
        named = [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        known = [one for one in named if one != "model" or not is_open]
        assert is_open == (name in OPTIONS)
        for right in [*known, *([OPTIONS[name]] if is_open else [])]:
            yield pytest.param(function, models, right[:-1] + "x", right, id=f"{path}-{right}")


@pytest.mark.parametrize(("function", "arguments", "wrong", "right"), misspelt())
def test_every_public_function_refuses_unknown_keywords(
    function: Any, arguments: tuple[str, ...], wrong: str, right: str
) -> None:
    expected = rf"{function.__name__}\(\) has no option '{wrong}'\. Did you mean '{right}'\?"
    with pytest.raises(TypeError, match=expected):
        function(*arguments, **{wrong: None})


def test_every_public_function_is_tested() -> None:
    names = {path.rpartition(".")[2] for path, _ in public()}
    assert {"load_checkpoint", "save_checkpoint", "list_models", "new_plugin", "Progress", "verify"} < names


def test_functions_without_keywords_refuse_them() -> None:
    with pytest.raises(TypeError, match=r"list_plugins\(\) has no option 'full': see help\(forgather.list_plugins\)$"):
        fg.list_plugins(full=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "options", [{"full": True}, {"list": True}, {"list": False}, {"seed": 3}, {"refresh_model": True}, {"steps": 3}]
)
@pytest.mark.parametrize("models", [(), ("llama/4M",)])
def test_a_list_of_checks_has_no_options_of_a_run(models: tuple[str, ...], options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=rf"list_checks\(\) has no option '{next(iter(options))}'"):
        fg.list_checks(*models, **options)


def test_a_list_of_checks_validates_the_options_of_a_model() -> None:
    assert fg.list_checks("llama/4M", hidden_size=64, checks=["padding"]).names == ("padding",)
    with pytest.raises(ConfigurationError, match=r"^hidden_size: num_attention_heads must divide hidden_size"):
        fg.list_checks("llama/4M", hidden_size=3)
    with pytest.raises(TypeError, match="requires a model for project: add the model, or remove project"):
        fg.list_checks(project=".")


@pytest.mark.parametrize("checks", ["", ",", " , ", [], (), ["", " "]])
def test_no_check_is_not_every_check(checks: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^checks contains no name: add one, or remove the option"):
        fg.list_checks(checks=checks)


@pytest.mark.parametrize(
    "checks", [["padding", "kv-cache"], ("kv-cache", "padding"), " padding ,kv-cache,", ["padding,kv-cache"]]
)
def test_checks_are_a_text_or_a_list(checks: Any) -> None:
    assert fg.list_checks(checks=checks).names == ("padding", "kv-cache")


@pytest.mark.parametrize("checks", [3, {"padding"}, ["padding", 3], b"padding", True])
def test_checks_of_another_type_are_refused(checks: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^checks: expected names separated by commas or null, got"):
        fg.list_checks(checks=checks)


def test_version() -> None:
    assert fg.__version__ == importlib.metadata.version("forgather")
    assert "__version__" in dir(fg)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--hidden-size", "hidden_size"),
        ("--hidden-size with --head-dim", "hidden_size with head_dim"),
        ("requires --save-checkpoint", "requires save_checkpoint=True"),
        ("requires a real device: add --device cpu", "requires a real device: add device='cpu'"),
        ("use --dtype bfloat16 or --dtype float16", "use dtype='bfloat16' or dtype='float16'"),
        ("add --dtype bfloat16 or float16", "add dtype='bfloat16' or float16"),
        ("try a smaller --lr, or --dtype float32", "try a smaller lr, or dtype='float32'"),
        ("bf16 contradicts --dtype float32", "bf16 contradicts dtype float32"),
        ("remove --no-init-weights", "remove no_init_weights"),
        (
            "hf download a/b --local-dir b, then use --from-config b",
            "hf download a/b --local-dir b, then use from_config b",
        ),
        ("rebuild it with --refresh-model (-r), or use --keep", "rebuild it with refresh_model=True, or use keep=True"),
        ("use --ignore-mismatched-sizes (ignore_mismatched_sizes=True)", "use ignore_mismatched_sizes=True"),
        ("list them: forgather model verify --list", "list them: list_checks()"),
        ("expected a number, got '--lr'", "expected a number, got '--lr'"),
        ("a--b/--c is a file", "a--b/--c is a file"),
        ("PROJECT", "project"),
    ],
)
def test_flags_become_keywords(text: str, expected: str) -> None:
    assert with_keywords(text) == expected


@pytest.mark.parametrize(
    ("call", "in_python", "on_command_line"),
    [
        (
            lambda: fg.construct("llama", device="cpu", safetensors=True),
            "safetensors requires save_checkpoint=True",
            "--safetensors requires --save-checkpoint",
        ),
        (
            lambda: fg.test("llama", steps=3),
            "steps requires a real device: add device='cpu'",
            "--steps requires a real device: add --device cpu",
        ),
        (lambda: fg.resolve("llama", hidden_size="x"), "hidden_size: expected an integer, got 'x'", None),
        (lambda: fg.list_checks(checks="zzz"), "checks: there is no check 'zzz': list them: list_checks()", None),
        (
            lambda: fg.list_datasets("nowhere"),
            "project: 'nowhere' is neither a file, a directory nor a built-in project",
            None,
        ),
        (lambda: fg.list_models(project="nowhere"), "project: the directory 'nowhere' does not exist", None),
    ],
)
def test_errors_name_keywords(call: Any, in_python: str, on_command_line: str | None) -> None:
    with pytest.raises(fg.ForgatherError) as error:
        call()
    assert str(error.value).startswith(in_python)
    assert error.value.option == in_python.partition(" ")[0].removesuffix(":")
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    if on_command_line is not None:
        assert str(error.value.with_flags) == on_command_line


def test_errors_of_a_file_name_its_key(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: llama/4M\nhidden_size: x\n")
    with pytest.raises(ConfigurationError, match=r"mine.yaml:2:\d+: hidden_size: expected an integer"):
        fg.resolve("mine", project=tmp_path)


def test_classes_of_errors_stay() -> None:
    with pytest.raises(CheckError):
        fg.list_checks(checks="zzz")
    with pytest.raises(DataError):
        fg.describe_dataset("nowhere")


@pytest.mark.parametrize("value", [b"out", ("out",), {"out"}])
def test_text_options_refuse_other_types(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^output_dir: expected text"):
        fg.resolve("llama", **SMALLEST, output_dir=value)


def test_functions_without_a_model_convert_their_options(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no option 'exampels'\. Did you mean 'examples'"):
        fg.describe_dataset("stdlib", exampels=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"^examples must be at least 0"):
        fg.describe_dataset("stdlib", examples=-1)
    with pytest.raises(ConfigurationError, match=r"^model_max_length must be at least 1"):
        fg.train_tokenizer("stdlib", vocab_size=300, output_dir=tmp_path / "t", model_max_length=0)
    with pytest.raises(ConfigurationError, match=r"^verify_checksums: expected true or false"):
        fg.inspect_checkpoint(tmp_path, verify_checksums="perhaps")  # type: ignore[arg-type]
    counted = fg.describe_dataset("stdlib", limit=2, tokenizer=Path("bytes"), examples="1")  # type: ignore[arg-type]
    assert counted.documents == 2


def test_resolve_has_no_options_of_other_functions() -> None:
    with pytest.raises(TypeError, match=r"resolve\(\) has no option 'init'"):
        fg.resolve("llama/4M", init=True)


@pytest.mark.parametrize("model", [None, 3, ["llama"]])
def test_a_model_of_a_wrong_type_is_a_type_error(model: Any) -> None:
    with pytest.raises(TypeError, match="expected a name, a path or a resolved model, got"):
        fg.resolve(model)
