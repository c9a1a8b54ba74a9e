"""What is live: deployed versions, how they do, and what is trending. Imports `ranking`, `state`, `process`."""
