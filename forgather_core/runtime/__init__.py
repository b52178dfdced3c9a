"""The process: optional packages, memory, interruption, and output of libraries."""
