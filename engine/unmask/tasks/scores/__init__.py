"""Scores of predictions, in percent, equal to those of the official scorers of the benchmarks."""
