"""What a service keeps that is killed again and again, and whether one that runs on stays as it was."""
