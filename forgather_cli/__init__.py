"""The command line: parse arguments, call one function of the core, show the result."""
