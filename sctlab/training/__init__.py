"""Training: pairs to dataset to folds to bundles."""
