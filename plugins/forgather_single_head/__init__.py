"""The single_head definition."""
