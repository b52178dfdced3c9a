"""Registries of plugins in a temporary directory, without installing them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from forgather_core.definitions import registry as registry_module
from forgather_core.definitions.registry import Registry

MakeRegistry = Callable[..., Registry]

PLUGIN = """
from dataclasses import dataclass
from pathlib import Path
from forgather_core import ModelDefinition, hookimpl, option

@dataclass(kw_only=True)
class Options:
    hidden_size: int = option(64, help="Model hidden dimension size (d_model)", ge=1)
    num_attention_heads: int = option(4, help="Heads", ge=1)
    head_dim: int | None = option(None, help="Head dimension", ge=1)
    rms_norm_eps: float = option(1e-5, help="Eps", ge=0)
    sliding_window: int | None = option(None, help="Window", ge=1)
    tie_word_embeddings: bool = option(False, help="Tie")
    rope_parameters: dict = option({"rope_type": "default", "rope_theta": 10000.0}, help="RoPE")

    def problems(self):
        if self.hidden_size % self.num_attention_heads:
            yield "num_attention_heads", f"must divide hidden_size ({self.hidden_size}), got {self.num_attention_heads}"

    def derived(self):
        return {"head_dim": self.hidden_size // self.num_attention_heads}

@hookimpl
def forgather_models():
    yield ModelDefinition(name="NAME", summary="A sample", options=Options, config="x.y:C", model="x.z:M",
                          presets=Path(__file__).parent / "presets", default_preset="small")
"""


@pytest.fixture
def make_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRegistry:
    """Return a function that makes a registry from entry-point names and module texts; None means the sample plugin."""
    site = tmp_path / "site"
    (site / "presets").mkdir(parents=True)
    (site / "presets" / "small.yaml").write_text("hidden_size: 128\nsource: https://example.org\nparameters: 7\n")
    (site / "presets" / "tiny-2M.yaml").write_text("hidden_size: 32\n")
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def make(*owners: str, **texts: str | None) -> Registry:
        points = []
        for name, text in texts.items():
            module = f"made_up_{name}_{len(sys.modules)}_{id(text)}"
            (site / f"{module}.py").write_text(textwrap.dedent(text or PLUGIN.replace("NAME", name)))
            points += [_entry_point(name, module, owner) for owner in (owners or (f"dist-{name}",))]
        monkeypatch.setattr(registry_module, "entry_points", lambda group: points)
        return Registry()

    yield make  # type: ignore[misc]
    for name in set(sys.modules) - before:
        if name.startswith("made_up_"):
            del sys.modules[name]


def _entry_point(name: str, module: str, owner: str) -> EntryPoint:
    point = EntryPoint(name, module, "forgather.models")
    vars(point)["dist"] = SimpleNamespace(name=owner, version="0.3")
    return point
