"""`from_config`: a transformers model directory is imported in one step, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import Registry
from forgather_core.errors import ConfigurationError
from forgather_core.report.construction import construction_report
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel
from tests.support.native_models import MODELS, save_native

IDS = torch.arange(3, 43)[None]


def from_directory(
    directory: Path, definition: str = "llama", *, project: Path = Path(), **flags: Any
) -> ResolvedModel:
    return resolve(find_configuration(definition, Registry(), project), {"from_config": directory} | flags)


@pytest.mark.few(1)
@pytest.mark.parametrize("case", MODELS)
@torch.no_grad()
def test_a_transformers_model_is_imported_in_one_step(case: str, tmp_path: Path) -> None:
    kind, options, definition = MODELS[case]
    original = save_native(kind, tmp_path / "Original", **options)
    resolved = from_directory(
        tmp_path / "Original",
        definition,
        device="cpu",
        load_from_checkpoint=tmp_path / "Original",
        save_checkpoint=True,
    )
    made = construct(resolved, project=tmp_path)
    assert made.directory.path == tmp_path / "output_models" / "original"
    assert made.loaded is not None
    assert (made.loaded.missing, made.loaded.unexpected) == ((), ())
    exported = AutoModelForCausalLM.from_pretrained(made.directory.path, trust_remote_code=True).eval()
    assert type(exported).__module__.startswith("transformers_modules")
    assert (exported(IDS).logits - original(IDS).logits).abs().max() <= 1e-5
    tokenizers = [AutoTokenizer.from_pretrained(place) for place in (tmp_path / "Original", made.directory.path)]
    assert tokenizers[0]("def main():") == tokenizers[1]("def main():")
    assert not any("promises" in note for note in construction_report(made)["notes"])


def test_every_value_has_its_directory_as_origin_and_flags_win(tmp_path: Path) -> None:
    save_native("Llama", tmp_path / "original", rms_norm_eps=1e-3)
    report = from_directory(tmp_path / "original", rms_norm_eps=1e-2, num_hidden_layers=1).to_dict()
    origins = {name: item["origin"] for name, item in report["options"].items()}
    assert origins.pop("rms_norm_eps") == "--rms-norm-eps"
    assert origins.pop("num_hidden_layers") == "--num-hidden-layers"
    assert set(origins.values()) == {f"from_config {tmp_path / 'original'}"}
    assert report["options"]["hidden_size"]["value"] == 32
    assert report["shared_options"]["tokenizer"]["value"] == str(tmp_path / "original")
    assert report["source"] is None and report["expected_parameters"] is None  # notes of the preset do not apply


def test_no_value_of_the_preset_is_left(tmp_path: Path) -> None:
    save_native("Llama", tmp_path / "original")
    options = from_directory(tmp_path / "original", "llama/30M").options  # grouped and tied
    assert (options.tie_word_embeddings, options.num_key_value_heads, options.vocab_size) == (False, 2, 2000)


def test_the_dtype_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    save_native("Llama", tmp_path / "original", dtype=torch.bfloat16)
    assert from_directory(tmp_path / "original").build.dtype == "bfloat16"
    assert from_directory(tmp_path / "original", dtype="float32").build.dtype == "float32"


def test_token_ids_and_generation_config_are_those_of_the_model(tmp_path: Path) -> None:
    original = save_native("Llama", tmp_path / "original", eos_token_id=[2, 5])
    original.generation_config.update(do_sample=True, temperature=0.6, eos_token_id=[2, 5])
    original.generation_config.save_pretrained(tmp_path / "original")
    made = construct(from_directory(tmp_path / "original"), project=tmp_path)
    config = json.loads((made.directory.path / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"], config["pad_token_id"]) == ([2, 5], 1, 1)
    generation = json.loads((made.directory.path / "generation_config.json").read_text())
    assert (generation["temperature"], generation["do_sample"], generation["eos_token_id"]) == (0.6, True, [2, 5])


@pytest.mark.regression("E6")
def test_generation_stops_at_the_models_tokens_and_at_those_of_another_template(tmp_path: Path) -> None:
    original = save_native("Llama", tmp_path / "original", eos_token_id=2)
    original.generation_config.update(eos_token_id=[2, 7])
    original.generation_config.save_pretrained(tmp_path / "original")
    made = construct(from_directory(tmp_path / "original", chat_template="chatml", vocab_size=2100), project=tmp_path)
    assert json.loads((made.directory.path / "generation_config.json").read_text())["eos_token_id"] == [2, 7, 5]


def test_from_config_accepts_a_directory_written_by_forgather(tmp_path: Path) -> None:
    resolved = resolve(
        find_configuration("deepone/4M", Registry(), tmp_path),
        {"hidden_size": 32, "alibi_slopes": "paper", "output_dir": tmp_path / "first"},
    )
    construct(resolved, project=tmp_path)
    again = from_directory(tmp_path / "first", "deepone")
    assert again.options.alibi_slopes == "paper"
    assert again.options.hidden_size == 32
    assert again.values["num_key_value_heads"].value == 4


def test_a_file_may_set_from_config_relative_to_itself(tmp_path: Path) -> None:
    save_native("Llama", tmp_path / "models" / "original")
    file = tmp_path / "exp.yaml"
    file.write_text("extends: llama/4M\nlike: models/original\nhidden_size: 64\n")
    resolved = resolve(find_configuration(str(file), Registry(), tmp_path))
    assert (resolved.options.hidden_size, resolved.options.intermediate_size) == (64, 48)
    assert resolved.origins["hidden_size"].label == "exp.yaml:3"
    assert (
        resolve(find_configuration(str(file), Registry(), tmp_path), {"from_config": None}).options.intermediate_size
        == 768
    )


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "another model": ("Qwen3", {}, "llama", "the model_type is 'qwen3', which 'llama' does not support: use -t qwen3"),
    "a mistral with other parts": (
        "Llama",
        {},
        "deepone",
        "the model_type is 'llama', which 'deepone' does not support: use -t llama",
    ),
    "an unsupported model": ("GPTNeoX", {}, "llama", "the model_type is 'gpt_neox', which 'llama' does not"),
    "biases": ("Llama", {"attention_bias": True}, "llama", "attention_bias is fixed to False for this model"),
    "another activation": (
        "Mistral",
        {"hidden_act": "gelu"},
        "mistral",
        "hidden_act is fixed to 'silu' for this model",
    ),
    "layers in another order": (
        "Qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 9,
            "max_window_layers": 1,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "qwen3",
        "for this sliding_window and max_window_layers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_models_are_refused(case: str, tmp_path: Path) -> None:
    kind, options, definition, reason = REFUSED[case]
    save_native(kind, tmp_path / "original", **options)
    with pytest.raises(ConfigurationError) as refused:
        from_directory(tmp_path / "original", definition)
    text = str(refused.value)
    assert text.startswith(f"--from-config: {tmp_path / 'original' / 'config.json'}: ")
    assert reason in text


@pytest.mark.regression("R7")
@torch.no_grad()
def test_an_fp8_model_is_dequantized_in_one_step(tmp_path: Path) -> None:
    source = tmp_path / "original"
    original = save_native("Llama", source)
    state = load_file(source / "model.safetensors")
    for name in [name for name in state if name.endswith("_proj.weight")]:
        weight = state[name]
        scale = weight.abs().max() / 448
        state[name] = (weight / scale).to(torch.float8_e4m3fn)
        state[name + "_scale_inv"] = scale.expand(-(-weight.shape[0] // 16), -(-weight.shape[1] // 16)).contiguous()
        original.get_parameter(name).copy_(state[name].float() * scale)
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((source / "config.json").read_text())
    content["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (source / "config.json").write_text(json.dumps(content))
    made = construct(
        from_directory(source, device="cpu", load_from_checkpoint=source, save_checkpoint=True), project=tmp_path
    )
    assert "quantization_config" not in json.loads((made.directory.path / "config.json").read_text())
    exported = AutoModelForCausalLM.from_pretrained(made.directory.path, trust_remote_code=True).eval()
    assert (exported(IDS).logits - original(IDS).logits).abs().max() <= 1e-5


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    save_native("Llama", tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ConfigurationError, match="the model is quantized"):
        from_directory(tmp_path)


def test_a_directory_without_a_tokenizer_requires_the_option(tmp_path: Path) -> None:
    save_native("Llama", tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ConfigurationError, match="has no tokenizer: add --tokenizer"):
        from_directory(tmp_path)
    assert from_directory(tmp_path, tokenizer="bpe-2k").directory.tokenizer == "bpe-2k"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, ".*config.json does not exist: use a Hugging Face model directory"),
        ("{", "cannot be read"),
        ("[1]", "is not a JSON object"),
        ("{}", "the model_type is 'None'"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "config.json: "),
    ],
)
def test_not_a_model_directory(content: str | None, reason: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigurationError, match=rf"--from-config: .*{reason}"):
        from_directory(tmp_path)


def test_a_hub_id_gets_the_download_command() -> None:
    with pytest.raises(ConfigurationError, match="hf download org/model"):
        from_directory(Path("org/model"))


def test_former_names_of_rope_keys_are_supported(tmp_path: Path) -> None:
    save_native("Llama", tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["rope_parameters"]
    content |= {"rope_theta": 1234.0, "rope_scaling": {"type": "linear", "factor": 3.0}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    rope = from_directory(tmp_path).options.rope_parameters
    assert rope == {"rope_type": "linear", "rope_theta": 1234.0, "factor": 3.0}
