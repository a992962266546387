"""Training plans as YAML, found by name."""
