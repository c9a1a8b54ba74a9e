"""What is live: deployed versions, how they do, what is trending. Imports `ranking`, `state`, `process`."""
