"""What models are fed: dataset projects, packing, random tokens, shipped tokenizers and chat templates."""
