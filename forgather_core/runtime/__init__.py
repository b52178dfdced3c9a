"""The process: optional packages, memory, interruption, and the output of libraries."""
