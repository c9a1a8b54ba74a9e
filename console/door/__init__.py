"""Who may come in: the login, and the gate before everything. Imports the console's client alone."""
