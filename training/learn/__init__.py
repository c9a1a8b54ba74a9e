"""Sessions to weights, and what there is to learn with. Imports `data` and `baselines`."""
