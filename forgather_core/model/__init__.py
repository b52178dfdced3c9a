"""Models: configuration, construction, parameters, and the manifest of a model directory."""
