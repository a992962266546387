"""Whether a registration can be trusted: witnesses, signals, a calibrated model, and the verdict in words."""
