"""What mistral is to compute, and how its weights begin."""

from forgather_core.reference import Reference, llama_init_std, llama_logits

REFERENCE = Reference(logits=llama_logits, spreads=llama_init_std)
