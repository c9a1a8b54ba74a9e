"""What is counted rather than learned: one module a baseline, each with a `fit`. Imports no other wing."""
