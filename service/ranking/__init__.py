"""From a session to its best items: the bundle and what answers from it. Imports `process` only."""
