"""Calls in several threads run one after another, since they change state of the process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import forgather as fg
from tests.support.settings import SMALLEST

KINDS: dict[str, dict[str, Any]] = {
    "one": {"hidden_size": 32, "dtype": "float32", "seed": 1},
    "two": {"hidden_size": 64, "dtype": "bfloat16", "seed": 2},
}


def construct(place: Path, name: str, **options: Any) -> fg.Construction:
    return fg.construct("llama", **SMALLEST | KINDS[name] | options, output_dir=place / name, device="cpu")


def test_threads_construct_and_load_the_right_weights(tmp_path: Path) -> None:
    expected = {}
    for name in KINDS:
        expected[name] = {key: value.clone() for key, value in construct(tmp_path, name).model.state_dict().items()}
        construct(tmp_path, name, save_checkpoint=True)
    # Each thread is in a call while the other one begins its own.
    both = threading.Barrier(len(KINDS))

    def work(name: str) -> None:
        for number in range(6):
            both.wait(300)
            options = {"load_from_checkpoint": tmp_path / name, "seed": 3} if number % 2 else {}
            made = construct(tmp_path, name, **options)
            assert made.model.state_dict().keys() == expected[name].keys()
            for key, value in made.model.state_dict().items():
                assert value.dtype == expected[name][key].dtype
                assert torch.equal(value, expected[name][key]), (name, number, key)

    before = torch.get_default_dtype(), torch.nn.init.normal_
    with ThreadPoolExecutor(len(KINDS)) as pool:
        for done in [pool.submit(work, name) for name in KINDS]:
            done.result()
    assert (torch.get_default_dtype(), torch.nn.init.normal_) == before


def test_a_call_waits_for_one_in_another_thread(tmp_path: Path) -> None:
    begun, may_end, done = threading.Event(), threading.Event(), threading.Event()

    def item(_: str) -> None:
        begun.set()
        assert may_end.wait(60)

    model = construct(tmp_path, "one").resolved
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fg.verify, model, checks="causality", progress=fg.Progress(item=item))
        assert begun.wait(60)
        second = pool.submit(lambda: (fg.resolve("qwen3"), done.set()))
        assert not done.wait(0.5)
        may_end.set()
        assert first.result().ok
        second.result()


def test_a_callback_may_call(tmp_path: Path) -> None:
    found: list[str] = []
    model = construct(tmp_path, "one").resolved
    fg.verify(
        model, checks="causality", progress=fg.Progress(item=lambda _: found.append(fg.resolve("llama").model_name))
    )
    assert found == ["llama_4m"]
