"""Weights to a bundle, proven before it is there. Imports `learn`, `baselines`, `data`."""
