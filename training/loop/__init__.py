"""The live loop: collect, run, gate, publish, schedule. Imports `search`, `fit` and all below it."""
