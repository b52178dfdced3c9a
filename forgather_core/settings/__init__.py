"""Settings: layers of values from presets, YAML files, source configs and flags, resolved into typed options."""
