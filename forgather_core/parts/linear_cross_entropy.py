"""The loss of a head over a large vocabulary, whose logits never exist as a whole.

Logits of N tokens over V entries are the largest tensors of a training step: at its peak there are three or four of
N x V numbers. Here they are made for some tokens at a time, and what backward would want of them is computed at once:
the gradients of hidden states and weight, which are no larger than these. No product is computed twice.

Source: arXiv:2410.10989, sec. 3.2: the gradient of cross-entropy, softmax less one-hot, is known with its value.

Shapes: N tokens, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100
MOST_PARTS = 16  # beyond that, what is left of the logits is little beside the activations of the layers
# Tokens in a part at least: D of them have logits as large as the weight, whose gradient each part adds to. Fewer would
# let that addition cost more than the products; what is large enough for a processor's product needs no more.
FEWEST, ENOUGH = 256, 1024


def linear_cross_entropy(
    hidden_states: Tensor,
    weight: Tensor,
    labels: Tensor | None = None,
    *,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift_labels: Tensor | None = None,
) -> Tensor:
    """The mean cross-entropy of the next token, as transformers' `ForCausalLMLoss` has it of logits.

    Args:
        hidden_states: [..., T, D].
        weight: [V, D], of a head without bias.
        labels: [..., T], not shifted; or None where `shift_labels` is given.
        num_items_in_batch: What the sum over targets is divided by; None: the number of targets.
        ignore_index: A label of this value is no target.
        shift_labels: [..., T], the target of each position.

    Returns:
        A scalar, in float32 at least; not a number where nothing is a target. It can be differentiated once.
    """
    if shift_labels is None:
        assert labels is not None
        shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    kind = hidden_states.device.type
    if torch.is_autocast_enabled(kind):  # cast under autograd and once, not for each part
        dtype = torch.get_autocast_dtype(kind)
        hidden_states, weight = hidden_states.to(dtype), weight.to(dtype)
    targets = shift_labels.to(hidden_states.device).reshape(-1)
    count = (targets != ignore_index).sum() if num_items_in_batch is None else num_items_in_batch
    with torch.autocast(kind, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(hidden_states.flatten(0, -2), weight, targets, count, ignore_index)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Both gradients are made in forward, for a gradient of one of the loss; backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_states: Tensor, weight: Tensor, targets: Tensor, count: Tensor | int, ignore_index: int
    ) -> Tensor:
        """The loss of [N, D] and targets [N]."""
        of_hidden, of_weight, *_ = ctx.needs_input_grad
        tokens, size = hidden_states.shape
        rows = max(-(-tokens // MOST_PARTS), min(max(size, FEWEST), ENOUGH))
        dtype = torch.promote_types(weight.dtype, torch.float32)
        inputs = torch.empty_like(hidden_states) if of_hidden else None
        # Parts are added in float32: a sum of many in bfloat16 would lose the small ones.
        total = torch.zeros_like(weight, dtype=dtype if tokens > rows else None) if of_weight else None
        loss = torch.zeros((), dtype=dtype, device=weight.device)
        scale = 1 / torch.as_tensor(count, dtype=dtype, device=weight.device)
        for part in (slice(begin, begin + rows) for begin in range(0, tokens, rows)):
            hidden, target = hidden_states[part], targets[part]
            is_target = target != ignore_index
            index = target.masked_fill(~is_target, 0)[:, None]
            log_p = nn.functional.log_softmax(nn.functional.linear(hidden, weight).to(dtype), -1)
            # masked_fill, not a product: where a token is no target, its logits may be anything.
            loss -= log_p.gather(1, index).squeeze(1).masked_fill(~is_target, 0).sum()
            if of_hidden or of_weight:
                gradient = log_p.exp_()
                gradient.scatter_add_(1, index, gradient.new_full(index.shape, -1))
                gradient = gradient.mul_(scale).masked_fill_(~is_target[:, None], 0).to(weight.dtype)
                if inputs is not None:
                    torch.mm(gradient, weight, out=inputs[part])
                if total is not None:
                    _add_product(total, gradient, hidden)
                del gradient
            del log_p
        ctx.save_for_backward(inputs, total.to(weight.dtype) if total is not None else None)
        return loss * scale

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, scaled where they are: a second call finds them changed, and torch says so."""
        inputs, weights = ctx.saved_tensors
        return (*(of.mul_(gradient) if of is not None else None for of in (inputs, weights)), None, None, None)


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """total [V, D] += gradient [n, V], transposed, times hidden [n, D]."""
    if total.dtype == gradient.dtype:
        total.addmm_(gradient.T, hidden)
    else:
        total += gradient.T @ hidden
