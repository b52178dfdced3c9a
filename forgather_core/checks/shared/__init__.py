"""Code that checks share: the model under test, inputs, tolerances, and observations of a call."""
