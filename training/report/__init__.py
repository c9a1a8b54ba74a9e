"""Results as people read them: leaderboard, pages, pictures, benchmark. Imports `fit` and all below it."""
