"""The processes: their settings, logs, metrics, supervisor and private Redis. Imports no other wing."""
