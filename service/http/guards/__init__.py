"""Guards: who is let in, from where, and how often. Imports process and state, and of http its problems."""
