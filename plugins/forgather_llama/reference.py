"""How weights begin. What is computed of them, a class of transformers says."""

from forgather_core.reference import Reference, llama_spreads

REFERENCE = Reference(spreads=llama_spreads)
