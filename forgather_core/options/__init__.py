"""Options: their declaration, YAML, the options of every definition, and the commands that use them."""
