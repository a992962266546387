"""One file per extractor: its name, and where its weights come from (source, revision, hash).

Every module in this package is imported when an extractor is looked up or listed, and registers what it holds with
`sctlab.features.registry.register`. So it imports PyTorch only in the functions that build: `sctlab.features.networks` does.
"""
