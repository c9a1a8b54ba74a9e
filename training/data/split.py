"""The temporal split into training and test sessions; as in `training.data.sessions`, nothing runs here."""

from __future__ import annotations

from training.data.formats import SECOND

DAY = 86_400 * SECOND


def split_whole(clicks: str, cutoff: int) -> tuple[str, str]:
    """Training and test clicks: a session whose last click is at `cutoff` or later is for the test."""
    late = f"(SELECT session FROM {clicks} GROUP BY session HAVING max(time) >= {cutoff})"
    return (
        f"(SELECT clicks.* FROM {clicks} AS clicks ANTI JOIN {late} USING (session))",
        f"(SELECT clicks.* FROM {clicks} AS clicks SEMI JOIN {late} USING (session))",
    )


def split_cut(clicks: str, cutoff: int) -> tuple[str, str]:
    """Training and test clicks: of a session that straddles `cutoff`, what comes before is for training.

    What comes after is dropped: it would make a test session that begins in its middle.
    """
    late = f"(SELECT session FROM {clicks} GROUP BY session HAVING min(time) >= {cutoff})"
    return (
        f"(SELECT * FROM {clicks} WHERE time < {cutoff})",
        f"(SELECT clicks.* FROM {clicks} AS clicks SEMI JOIN {late} USING (session))",
    )


def drop_unseen_items(test: str, train: str) -> str:
    """Drop the test clicks on items that no training session holds."""
    return f"(SELECT test.* FROM {test} AS test SEMI JOIN {train} USING (item))"
