"""What qwen3 is to compute, and how its weights begin."""

from forgather_core.reference import Reference, llama_logits, llama_spreads

REFERENCE = Reference(logits=llama_logits, spreads=llama_spreads)
