"""How good and how fast: metrics, through the path that serves. Imports `learn`, `baselines`, `data`."""
