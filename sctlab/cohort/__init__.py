"""Cohorts of pairs: finding them, checking them, leaving some out, dividing the rest into folds."""
