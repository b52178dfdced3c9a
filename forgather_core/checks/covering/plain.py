"""The plain call of a model: the reference for all other ways to call it.

Each document is computed alone, in float32, with eager attention, in evaluation mode, without a cache, mask, positions
or labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..shared.compared_gradients import gradients_of
from .arguments import ITEMS, divides_by_items, targets_of
from .call import Results, kept_tokens, prepared, weighted_sum
from .factors import PLAIN, Case
from .layout import Document, Layout

_MOST_KNOWN = 200  # documents whose logits are cached


class PlainCalls:
    """Results of the plain call; logits are cached by document.

    Args:
        model: The model, in float32 with the plain attention implementation.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._known: dict[tuple[int, ...], Tensor] = {}

    def expected(self, case: Case, layout: Layout) -> Results:
        """Return the results that a case must have.

        Args:
            case: The levels of outputs, labels, gradients, frozen parameters and logits_to_keep.
            layout: Its texts.
        """
        kept = kept_tokens(case, layout)
        logits = [self._logits(one) for one in layout.documents]
        results = Results(logits=logits)
        if kept is not None:
            results.logits = [one[indices] for one, indices in zip(logits, kept, strict=True)]
        for one in layout.documents if case["outputs"] != "logits" else ():
            if case["outputs"] == "hidden-states":
                results.hidden.append([layer[0] for layer in self._call(one, output_hidden_states=True).hidden_states])
            else:
                layers = self._call(one, output_attentions=True).attentions
                results.weights.append([layer[0] for layer in layers if layer is not None])
        if case["labels"] != "none":
            results.loss = _loss(case, layout, [one.double() for one in logits])
        if case["gradients"] == "on":
            results.gradients = self.gradients(case, layout)
        return results

    def _logits(self, document: Document) -> Tensor:
        key = tuple(document.tokens.tolist())
        if key not in self._known:
            if len(self._known) == _MOST_KNOWN:
                self._known.clear()
            self._known[key] = self._call(document).logits[0]
        return self._known[key]

    def _call(self, document: Document, **requests: bool) -> Any:
        with torch.no_grad():
            return self.model.eval()(document.tokens[None], use_cache=False, **requests)

    def gradients(self, case: Case, layout: Layout) -> dict[str, Tensor]:
        """Return the gradients that a case must have."""
        kept = kept_tokens(case, layout)
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
