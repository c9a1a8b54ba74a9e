"""What is live: versions, how they do, what trends. Imports `catalogue`, `ranking`, `state` and `process`."""
