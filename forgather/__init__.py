"""The documented import names of Forgather's Python interface."""
