"""Several processes that hold one model: their agreement, and the exchange of its tensors."""
