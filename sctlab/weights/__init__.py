"""Published weights by name: the registry of what there is, fetching, and turning it into bundles."""
