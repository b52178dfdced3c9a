"""A model distributed over processes equals that of one process: weights to the bit, losses of training to rounding."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

import forgather
from tests.support.ranks import run_ranks

NAMES = ("llama", "deepone", "single_head", "causal_lm", "mistral", "qwen3")
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "device": "cpu"}
STEPS: dict[str, Any] = {"steps": 10, "sequence_length": 12, "lr": 0.1, "batch_size": 12}
TWO, FOUR = ("fsdp", "tp", "ddp"), ("fsdp=2,tp=2", "ddp=2,fsdp", "ddp=2,tp=2", "fsdp")


def options_of(name: str) -> dict[str, Any]:
    heads = {} if name == "single_head" else {"num_attention_heads": 4}
    heads |= {"num_key_value_heads": 2} if name in {"llama", "mistral", "qwen3"} else {}
    return SMALL | heads | {"tie_word_embeddings": name in {"single_head", "qwen3"}}


def digests(model: Any) -> dict[str, str]:
    """Return a digest of each whole tensor of the model's state, in every process."""
    whole = {name: getattr(one, "full_tensor", lambda one=one: one)() for name, one in model.state_dict().items()}
    return {name: hashlib.sha256(one.detach().numpy().tobytes()).hexdigest() for name, one in whole.items()}


def losses(run: Any) -> list[float]:
    report = run.to_dict()
    return [*(step["loss"] for step in report["steps"]), report["loss"]["first_batch_after"]]


def norms(run: Any) -> list[float]:
    return [step["grad_norm"] for step in run.to_dict()["steps"]]


def distributed(name: str, meshes: tuple[str, ...], folder: str, data: int) -> dict[str, Any]:
    """Construct and train a model over each mesh, in a process of several."""
    found: dict[str, Any] = {}
    for number, mesh in enumerate(meshes):
        torch.manual_seed(torch.distributed.get_rank())  # must not matter
        options = options_of(name) | {"parallel": mesh, "seed": 5}
        place = Path(folder) / f"mesh{number}"
        made = forgather.construct(name, output_dir=place, save_checkpoint=True, safetensors=number % 2 == 0, **options)
        shards = [one.to_local() for one in made.model.parameters() if hasattr(one, "to_local")]
        found[mesh] = {
            "digests": digests(made.model),
            "held": sum(one.numel() for one in shards) / sum(one.numel() for one in made.model.parameters()),
            "saved": len(made.saved.files) if made.saved else 0,
        }
        parts = {"fsdp": data, "ddp": data, "tp": 1, "fsdp=2,tp=2": 2, "ddp=2,fsdp": 4, "ddp=2,tp=2": 2}[mesh]
        steps = STEPS | {"batch_size": STEPS["batch_size"] // parts}
        run = forgather.test(name, output_dir=Path(folder) / "test", **options, **steps)
        report = run.to_dict()
        found[mesh] |= {"losses": losses(run), "norms": norms(run)}
        found[mesh] |= {"batch": report["setup"]["batch"], "estimated": report["memory"]["estimated"]}
    return found


def check_meshes(name: str, meshes: tuple[str, ...], count: int, tmp_path: Path) -> None:
    alone = forgather.construct(name, output_dir=tmp_path / "alone", seed=5, **options_of(name))
    expected = digests(alone.model)
    run = forgather.test(name, output_dir=tmp_path / "alone", seed=5, **options_of(name), **STEPS)
    ranks = run_ranks(distributed, count, name, meshes, str(tmp_path), count, seconds=300)
    for result in ranks:
        if isinstance(result, Exception):
            raise result
        for number, mesh in enumerate(meshes):
            found = result[mesh]
            assert found["digests"] == expected, mesh
            assert found["losses"] == pytest.approx(losses(run), abs=1e-5), mesh
            assert found["norms"] == pytest.approx(norms(run), rel=1e-4), mesh
            if mesh != "ddp":
                assert found["held"] <= 1 / 2 + 0.05  # no process holds the whole model
            assert found["batch"].startswith("12 x 12"), mesh  # of all processes together
            assert found["estimated"] is None
            saved = {"load_from_checkpoint": tmp_path / f"mesh{number}", "no_init_weights": True}
            again = forgather.construct(name, output_dir=tmp_path / "alone", **saved, **options_of(name))
            assert digests(again.model) == expected


@pytest.mark.few(3, slow=6)
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(name: str, tmp_path: Path) -> None:
    check_meshes(name, TWO, 2, tmp_path)


@pytest.mark.few(0, slow=3)
@pytest.mark.parametrize("name", NAMES)
def test_four_processes_equal_one(name: str, tmp_path: Path) -> None:
    check_meshes(name, FOUR, 4, tmp_path)


@pytest.mark.few(0, slow=1)
@pytest.mark.parametrize("name", NAMES)
def test_three_processes_equal_one(name: str, tmp_path: Path) -> None:
    check_meshes(name, ("fsdp",), 3, tmp_path)
