"""Load on a running service, and the yardsticks beside it; `python -m benchmarks.load --help`."""
