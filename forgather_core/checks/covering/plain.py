"""The plain way to call a model: the reference for all other ways.

It computes each document alone, in float32, with eager attention, in evaluation mode, without a cache, mask, positions
or labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..tolerance import gradients_of
from .arguments import ITEMS, divides_by_items, targets_of
from .call import Results, prepared, weighted_sum
from .factors import PLAIN, Case
from .layout import Document, Layout


class PlainCalls:
    """Results of the plain way, remembered by document.

    Args:
        model: The model, in float32 with the plain attention implementation.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._outputs: dict[tuple[int, ...], Any] = {}

    def expected(self, case: Case, layout: Layout, kept: Sequence[Tensor] | None) -> Results:
        """Return the results that a case must have.

        Args:
            case: The levels of outputs, labels, gradients and frozen parameters.
            layout: Its texts.
            kept: For each document, the indices of its tokens whose logits are returned; None means all.
        """
        outputs = [self._output(one) for one in layout.documents]
        results = Results(logits=[one["logits"] for one in outputs], kept=None if kept is None else list(kept))
        if kept is not None:
            results.logits = [one["logits"][indices] for one, indices in zip(outputs, kept, strict=True)]
        if case["outputs"] == "hidden-states":
            results.hidden = [one["hidden"] for one in outputs]
        if case["outputs"] == "attentions":
            results.weights = [one["weights"] for one in outputs]
        if case["labels"] != "none":
            results.loss = _loss(case, layout, [one["logits"].double() for one in outputs])
        if case["gradients"] == "on":
            results.gradients = self._gradients(case, layout, kept)
        return results

    def _output(self, document: Document) -> dict[str, Any]:
        key = tuple(document.tokens.tolist())
        if key not in self._outputs:
            how = {"use_cache": False, "output_hidden_states": True}
            if self.model.config._attn_implementation == "eager":
                how["output_attentions"] = True
            with torch.no_grad():
                outputs = self.model.eval()(document.tokens[None], **how)
            self._outputs[key] = {
                "logits": outputs.logits[0],
                "hidden": [layer[0] for layer in outputs.hidden_states or ()],
                "weights": [layer[0] for layer in outputs.get("attentions") or () if layer is not None],
            }
        found: dict[str, Any] = self._outputs[key]
        return found

    def _gradients(self, case: Case, layout: Layout, kept: Sequence[Tensor] | None) -> dict[str, Tensor]:
        with prepared(self.model, {**PLAIN, "frozen": case["frozen"]}), torch.enable_grad():
            logits = [self.model(one.tokens[None], use_cache=False).logits[0] for one in layout.documents]
            if case["labels"] != "none":
                objective = _loss(case, layout, logits)
            else:
                returned = logits if kept is None else [one[at] for one, at in zip(logits, kept, strict=True)]
                objective = weighted_sum(layout, returned, kept)
            objective.backward()  # type: ignore[no-untyped-call]
            return gradients_of(self.model)


def _loss(case: Case, layout: Layout, logits: Sequence[Tensor]) -> Tensor:
    """Return the mean cross-entropy of the targets, or their sum over `num_items_in_batch`."""
    losses = []
    for one, scores in zip(layout.documents, logits, strict=True):
        targets, ids = targets_of(case, one, layout)
        losses.append(torch.nn.functional.cross_entropy(scores[targets - 1], ids, reduction="none"))
    each = torch.cat(losses)
    return each.sum() / (ITEMS if divides_by_items(case) else len(each))
