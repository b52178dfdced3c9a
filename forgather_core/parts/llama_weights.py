"""Initial weights of Llama and those built like it, for definitions that have no table of their own."""

from forgather_core.parts.initial_weights import Table, normal, ones, truncated_normal


def llama_weights(hidden_size: int, num_hidden_layers: int, *, tied: bool, pad: int | None) -> Table:
    """What writes to the residual stream starts smaller, by the depth it adds up over (GPT-2, sec. 2.3).

    Args:
        hidden_size: Of the model.
        num_hidden_layers: Each adds two branches.
        tied: Whether the embedding is the head too; then it has the head's spread.
        pad: The padding row of the embedding, which is zero.
    """
    depth = (2 * num_hidden_layers) ** -0.5
    yield r"norm", ones()
    yield r"embed_tokens", normal(std=hidden_size**-0.5 if tied else 1.0, zero_row=pad)
    yield r"(q|k|v|gate|up)_proj", truncated_normal(std=0.02)
    yield r"(o|down)_proj", truncated_normal(std=0.02 * depth)
    yield r"lm_head", truncated_normal(std=hidden_size**-0.5, cut=3)
