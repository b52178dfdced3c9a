"""The mistral definition."""
