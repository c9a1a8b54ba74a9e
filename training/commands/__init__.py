"""The command line: parses, prints, calls the wings. Imports every other wing; no wing imports it."""
