"""Reference implementation of smollm3: equations and initialization."""

from forgather_core.reference import Reference, llama_init_std, llama_logits

REFERENCE = Reference(logits=llama_logits, init_std=llama_init_std)
