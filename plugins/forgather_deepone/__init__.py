"""The deepone definition."""
