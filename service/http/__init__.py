"""HTTP: the application, its routes and what guards them. Imports every other wing; no wing imports it."""
