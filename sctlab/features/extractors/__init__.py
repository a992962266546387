"""One file per extractor: architecture, weights (source, revision, hash), names of the weights, normalisation.

Every module in this package is imported when an extractor is looked up, and registers what it holds with
`sctlab.features.registry.register`. Heavy libraries are imported in the constructors, not here.
"""
