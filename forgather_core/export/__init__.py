"""Write model directories from options, source files and a tokenizer."""
