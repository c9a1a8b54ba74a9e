"""What a shop tells of its items, and what follows from it. Imports `ranking`, `state` and `process`."""
