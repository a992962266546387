"""Evaluation: the challenge metrics exactly, statistics, the report."""
