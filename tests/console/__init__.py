"""The console without a browser: what its pages compute, and who gets in."""
