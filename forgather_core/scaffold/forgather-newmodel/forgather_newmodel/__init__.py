"""The newmodel definition."""
