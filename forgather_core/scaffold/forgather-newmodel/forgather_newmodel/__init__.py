"""The newmodel model definition."""
