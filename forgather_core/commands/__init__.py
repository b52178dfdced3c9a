"""The functions behind the commands: construct, list, train a tokenizer."""
