"""The temporal split into training and test sessions; as in `training.data.sessions`, nothing runs here."""

from __future__ import annotations

from ibis.expr.types import Table

from training.data.formats import SECOND

DAY = 86_400 * SECOND


def split_whole(clicks: Table, cutoff: int) -> tuple[Table, Table]:
    """Training and test clicks: a session whose last click is at `cutoff` or later is for the test."""
    ends = clicks.group_by("session").agg(end=clicks.time.max())
    late = ends.filter(ends.end >= cutoff)
    return clicks.anti_join(late, "session"), clicks.semi_join(late, "session")


def split_cut(clicks: Table, cutoff: int) -> tuple[Table, Table]:
    """Training and test clicks: of a session that straddles `cutoff`, what comes before is for training.

    What comes after is dropped: it would make a test session that begins in its middle.
    """
    begins = clicks.group_by("session").agg(begin=clicks.time.min())
    late = begins.filter(begins.begin >= cutoff)
    return clicks.filter(clicks.time < cutoff), clicks.semi_join(late, "session")


def drop_unseen_items(test: Table, train: Table) -> Table:
    """Drop the test clicks on items that no training session holds."""
    return test.semi_join(train, "item")
