"""The search for settings, on validation alone. Imports `fit` and all below it."""
