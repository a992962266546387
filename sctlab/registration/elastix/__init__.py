"""The elastix baseline."""
