"""The live loop: collect, run, gate, publish, schedule. Imports `fit` and all below it."""
