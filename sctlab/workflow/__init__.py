"""Many cases: locally or on a cluster."""
