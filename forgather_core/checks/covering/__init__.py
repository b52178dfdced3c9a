"""A covering array over the ways to call a model; every way must agree with the plain one."""
