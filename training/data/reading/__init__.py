"""What is in the files of a click log, and why a row is no click. Imports `dataset`, and no other wing."""
