"""What `--model auto` is, for those that must not wait for torch."""

AUTO = "auto"
BUDGET_MINUTES = 60.0
