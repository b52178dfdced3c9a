"""The command line: parses, calls one function of the core, draws the answer."""
