"""Training data: dataset projects, tokenized documents, packing and random tokens."""
