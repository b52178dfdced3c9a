"""Views: reports of the core as rich renderables, one module for each kind of command."""
