"""Model definitions: the contracts of plugins, and how plugins are found and loaded."""
