"""Feed-forward layers."""

from torch import Tensor, nn
from transformers.activations import ACT2FN

from forgather_core.parts.arguments import positive, probability


class FeedForward(nn.Module):
    """Position-wise feed-forward layer (arXiv:1706.03762, eq. 2): down(act(up(x))), with biases.

    Args:
        hidden_size: Size of input and output.
        intermediate_size: Size of the hidden layer.
        activation: Name of an activation in transformers' ACT2FN; the paper has "relu".
        dropout: Dropout probability after the activation in training.

    Raises:
        ValueError: A size is not above 0, the dropout is not in [0, 1), or the activation is unknown.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, *, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        positive(hidden_size=hidden_size, intermediate_size=intermediate_size)
        probability(dropout=dropout)
        self.up_proj = nn.Linear(hidden_size, intermediate_size)
        self.down_proj = nn.Linear(intermediate_size, hidden_size)
        self.act_fn = _activation(activation)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Compute [B, T, hidden_size] -> [B, T, hidden_size]."""
        return self.down_proj(self.drop(self.act_fn(self.up_proj(hidden_states))))


class GatedFeedForward(nn.Module):
    """Gated linear unit (arXiv:2002.05202, sec. 2): down(act(gate(x)) * up(x)), without biases.

    Args:
        hidden_size: Size of input and output.
        intermediate_size: Size of the hidden layer.
        activation: Name of an activation in transformers' ACT2FN: "silu" gives SwiGLU, "relu" ReGLU.

    Raises:
        ValueError: A size is not above 0, or the activation is unknown.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, *, activation: str) -> None:
        super().__init__()
        positive(hidden_size=hidden_size, intermediate_size=intermediate_size)
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.act_fn = _activation(activation)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Compute [B, T, hidden_size] -> [B, T, hidden_size]."""
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


def _activation(name: str) -> nn.Module:
    if name not in ACT2FN:
        raise ValueError(f"activation must be a name in transformers' ACT2FN, such as 'silu' or 'relu'; got {name!r}")
    return ACT2FN[name]
