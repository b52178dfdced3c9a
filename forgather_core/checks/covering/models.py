"""The models of a case: the same weights, made and loaded in different ways."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import torch

from ..shared.implementations import uncompiled_flex
from ..shared.meta_initialization import initialized_after_meta
from ..shared.model_under_test import ModelUnderTest
from ..shared.other_values import values_of_equal_shapes
from ..shared.position_encoding import switching_length
from ..shared.reloaded import reloaded
from .factors import POSITIONS, Case

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
DROPOUT = 0.3
_LONG = 129  # tokens of a call that may change the state of a module or a class
# These cases involve a second model, dtype or attention implementation.
BESIDE_OTHERS = ("before-another", "after-another", "after-other-dtype", "after-other-attention")
Key = tuple[str, str, str, str]


class Models:
    """Make the models of cases; the latest model is cached.

    Args:
        subject: The model under test.
    """

    def __init__(self, subject: ModelUnderTest) -> None:
        self.subject = subject
        self._latest: tuple[Key, Any] | None = None
        self._others: list[Any] = []  # other models, which must exist as long as the latest one

    @staticmethod
    def key(case: Case) -> Key:
        """Return the levels that determine a model; cases with the same key share one."""
        dtype = "float32" if case["dtype"].startswith("autocast-") else case["dtype"]
        return case["made"], dtype, case["attention"], case["dropout"]

    def of(self, case: Case) -> Any:
        """Return the model of a case, in eval mode."""
        key = self.key(case)
        if self._latest is None or self._latest[0] != key:
            self._latest, self._others = None, []
            self._latest = key, self._made(case, DTYPES[key[1]])
        return self._latest[1]

    def clear(self) -> None:
        """Release the latest model."""
        self._latest, self._others = None, []

    def changes(self, case: Case) -> dict[str, Any]:
        """Return the changes to the configuration."""
        drops = self.subject.no_dropout
        changes: dict[str, Any] = dict.fromkeys(drops, DROPOUT) if case["dropout"] == "on" else dict(drops)
        return changes | fewer_positions(self.subject)

    def _made(self, case: Case, dtype: torch.dtype) -> Any:
        how = self.changes(case) | {"attention": case["attention"]}
        made = case["made"]
        if made == "after-another":
            self._others.append(self._another(how))
        first = self._other_attention(case["attention"]) if made == "after-other-attention" else case["attention"]
        model = self.subject.randomized_model(**how | {"attention": first})
        if made == "from-pretrained":
            return reloaded(self.subject, model, dtype, attn_implementation=case["attention"])
        if made == "meta":
            weights, model = model.state_dict(), initialized_after_meta(self.subject, **how)
            model.load_state_dict(weights)
        elif made == "pickled":
            model = pickle.loads(pickle.dumps(model))
        elif made == "deep-copied":
            original, model = model, copy.deepcopy(model)
            self.subject.randomized(original, self.subject.seed + 1)
        elif made == "before-another":
            self._others.append(self._another(how))
        elif made == "after-other-dtype":
            self._call_in(torch.float32 if dtype.itemsize == 2 else torch.bfloat16, model)
        elif made == "after-other-attention":
            self._call(model)
            model.set_attn_implementation(case["attention"])
        return model.to(dtype).eval()

    def _another(self, how: Mapping[str, Any]) -> Any:
        """Return another model of the same class, with another configuration and weights, that has been called."""
        seed = self.subject.seed + 1
        try:
            changes = {**how, **values_of_equal_shapes(self.subject.text_config.to_dict())}
            other = self.subject.randomized_model(seed=seed, **changes)
            self._call(other)
        except Exception:
            if self.subject.made_by_forgather:
                raise
            other = self.subject.randomized_model(seed=seed, **how)  # the changed values may depend on others
            self._call(other)
        return other

    def _other_attention(self, attention: str) -> str:
        """Return another attention implementation that the model supports; the same one if there is none."""
        possible = (name for name in ("eager", "sdpa") if name not in self.subject.refused_attention)
        return next((name for name in possible if name != attention), attention)

    def _call_in(self, dtype: torch.dtype, model: Any) -> None:
        """Call a model in another dtype."""
        weights = {name: one.clone() for name, one in model.state_dict().items()}
        self._call(model.to(dtype))
        model.to(torch.float32).load_state_dict(weights)

    @torch.no_grad()
    def _call(self, model: Any) -> None:
        length = min(_LONG, getattr(self.subject.text_config, "max_position_embeddings", None) or _LONG)
        with uncompiled_flex(model.config._attn_implementation):
            model.eval()(self.subject.tokens(1, length))


def fewer_positions(subject: ModelUnderTest) -> dict[str, Any]:
    """Return changes to the configuration, so that texts reach the last position, or the length at which RoPE changes.

    There are none if the number of positions determines the frequencies of every text.
    """
    config = subject.text_config
    positions = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind == "longrope" and (switching_length(config) or 0) > POSITIONS // 2:
        return {"rope_parameters": rope | {"original_max_position_embeddings": POSITIONS // 2}}
    if positions is None or positions <= POSITIONS or kind not in ("default", "dynamic"):
        return {}
    return {"max_position_embeddings": POSITIONS}
