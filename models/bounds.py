"""What a number may be: how models, recipes and baselines refuse the others."""

from __future__ import annotations

import math


def require(
    *, at_least: float = -math.inf, above: float = -math.inf, at_most: float = math.inf, **values: float
) -> None:
    """Raises `ValueError` that names the first of `values` which lies outside, and its bounds."""
    wanted = {"at least": at_least, "above": above, "at most": at_most}
    told = " and ".join(f"{word} {bound:g}" for word, bound in wanted.items() if math.isfinite(bound))
    for name, value in values.items():
        if not (at_least <= value <= at_most and value > above):
            raise ValueError(f"{name} must be {told}, not {value}")
