"""Initialization of Llama and models built like it, for definitions without a table of their own."""

from forgather_core.parts.initial_weights import Table, normal, ones, truncated_normal


def llama_weights(hidden_size: int, num_hidden_layers: int, *, tied: bool, pad: int | None) -> Table:
    """Yield the table: std 0.02, and 0.02 / sqrt(2 num_hidden_layers) for residual outputs (GPT-2, sec. 2.3).

    Args:
        hidden_size: Hidden size of the model.
        num_hidden_layers: Number of layers, each with two residual branches.
        tied: Whether the embedding is also the head; it then has the std of the head.
        pad: Index of the embedding's padding row, which is zero; None for no such row.
    """
    depth = (2 * num_hidden_layers) ** -0.5
    yield r"norm", ones()
    yield r"embed_tokens", normal(std=hidden_size**-0.5 if tied else 1.0, zero_row=pad)
    yield r"(q|k|v|gate|up)_proj", truncated_normal(std=0.02)
    yield r"(o|down)_proj", truncated_normal(std=0.02 * depth)
    yield r"lm_head", truncated_normal(std=hidden_size**-0.5, cut=3)
