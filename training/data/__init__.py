"""Click log to sessions on disk. Imports no other wing."""
