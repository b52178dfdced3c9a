"""Training: loss, optimizers, the loop, measurement and diagnosis."""
