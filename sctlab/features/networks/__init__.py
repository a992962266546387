"""The networks behind the extractors, one file each: architecture, names of the weights, normalisation. They import PyTorch."""
