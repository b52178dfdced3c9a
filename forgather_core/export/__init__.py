"""Options, sources and a tokenizer become a model directory: whole or not there at all."""
