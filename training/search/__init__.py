"""The search for settings and for a model, on validation alone. Imports `fit` and all below it."""
