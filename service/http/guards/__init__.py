"""Guards: who is let in, and how often. Imports process and state, and of http its problems."""
