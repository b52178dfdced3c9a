"""Models: configuration, construction, parameters, and what a model directory records about itself."""
