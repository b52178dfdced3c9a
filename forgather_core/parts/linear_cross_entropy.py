"""Chunked cross-entropy: the full logits are never materialized.

Logits of N tokens over V entries are the largest tensors of a training step: at the peak there are three or four with
N x V elements. Here they are computed for a chunk of tokens at a time, and immediately reduced to the gradients of
hidden states and weight, which have the shapes of these tensors. Backward recomputes nothing.

Source: arXiv:2410.10989, sec. 3.2: forward already has the gradient of the cross-entropy, softmax minus one-hot.

Shapes: N tokens, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100
MAX_CHUNKS = 16  # with more chunks, a chunk of logits is small compared to the activations of the layers
# Bounds of the minimum number of tokens in a chunk. The logits of D tokens are as large as the weight, to whose
# gradient each chunk adds: with fewer tokens the addition would cost more than the products. ENOUGH_TOKENS
# saturate a CPU.
MIN_TOKENS, ENOUGH_TOKENS = 256, 1024


def linear_cross_entropy(
    hidden_states: Tensor,
    weight: Tensor,
    labels: Tensor | None = None,
    *,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift_labels: Tensor | None = None,
) -> Tensor:
    """Return the mean next-token cross-entropy, equal to transformers' `ForCausalLMLoss` on the logits.

    Args:
        hidden_states: [..., T, D].
        weight: [V, D], the weight of a head without bias.
        labels: [..., T], not shifted; None if `shift_labels` is passed.
        num_items_in_batch: Divisor of the sum over targets; None means the number of targets.
        ignore_index: The label of positions without a target.
        shift_labels: [..., T], the target of each position.

    Returns:
        A scalar, float32 or wider; NaN if there are no targets. It can be differentiated once.
    """
    if shift_labels is None:
        assert labels is not None
        shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    kind = hidden_states.device.type
    if torch.is_autocast_enabled(kind):  # cast under autograd, once instead of per chunk
        dtype = torch.get_autocast_dtype(kind)
        hidden_states, weight = hidden_states.to(dtype), weight.to(dtype)
    targets = shift_labels.to(hidden_states.device).reshape(-1)
    count = (targets != ignore_index).sum() if num_items_in_batch is None else num_items_in_batch
    with torch.autocast(kind, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(hidden_states.flatten(0, -2), weight, targets, count, ignore_index)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Compute both gradients in forward, for a loss gradient of one; backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_states: Tensor, weight: Tensor, targets: Tensor, count: Tensor | int, ignore_index: int
    ) -> Tensor:
        """Return the loss for hidden states [N, D] and targets [N]."""
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        tokens, size = hidden_states.shape
        rows = max(-(-tokens // MAX_CHUNKS), min(max(size, MIN_TOKENS), ENOUGH_TOKENS))
        dtype = torch.promote_types(weight.dtype, torch.float32)
        inputs = torch.empty_like(hidden_states) if needs_hidden else None
        # Accumulate chunks in float32: a sum of many in bfloat16 would lose the small ones.
        total = torch.zeros_like(weight, dtype=dtype if tokens > rows else None) if needs_weight else None
        loss = torch.zeros((), dtype=dtype, device=weight.device)
        scale = 1 / torch.as_tensor(count, dtype=dtype, device=weight.device)
        for chunk in (slice(begin, begin + rows) for begin in range(0, tokens, rows)):
            hidden, target = hidden_states[chunk], targets[chunk]
            is_target = target != ignore_index
            index = target.masked_fill(~is_target, 0)[:, None]
            log_p = nn.functional.log_softmax(nn.functional.linear(hidden, weight).to(dtype), -1)
            # masked_fill instead of a product: logits at positions without a target may be NaN or infinite.
            loss -= log_p.gather(1, index).squeeze(1).masked_fill(~is_target, 0).sum()
            if needs_hidden or needs_weight:
                gradient = log_p.exp_()
                gradient.scatter_add_(1, index, gradient.new_full(index.shape, -1))
                gradient = gradient.mul_(scale).masked_fill_(~is_target[:, None], 0).to(weight.dtype)
                if inputs is not None:
                    torch.mm(gradient, weight, out=inputs[chunk])
                if total is not None:
                    _add_product(total, gradient, hidden)
                del gradient
            del log_p
        ctx.save_for_backward(inputs, total.to(weight.dtype) if total is not None else None)
        return loss * scale

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, scaled in place: a second call raises torch's error about modified tensors."""
        inputs, weights = ctx.saved_tensors
        return (*(of.mul_(gradient) if of is not None else None for of in (inputs, weights)), None, None, None)


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add gradient^T [V, n] times hidden [n, D] to total [V, D]."""
    if total.dtype == gradient.dtype:
        total.addmm_(gradient.T, hidden)
    else:
        total += gradient.T @ hidden
