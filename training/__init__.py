"""How it is learned: click log -> sessions -> train -> measure -> bundle."""
