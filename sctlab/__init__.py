"""The laboratory: simulates, registers, trains and judges what `model` runs."""
