"""A covering array over the ways to call a model, each compared with the plain call."""
