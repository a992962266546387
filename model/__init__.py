"""The deployable: everything that runs in the challenge. Imports nothing from `sctlab`."""
