"""What the service does, seen again and again: metrics, rates, alarms. Imports the console's client alone."""
