"""From clicks to sessions: cutting visitors' histories, and the filters of the RSC15/GRU4Rec protocol.

Each function makes one table of clicks (session, item, time, tick, row) of another; nothing runs here.
"""

from __future__ import annotations

import ibis
from ibis.expr.types import Table

ORDER = ("time", "tick", "row")  # of the clicks within a session


def cut_by_inactivity(clicks: Table, gap: int) -> Table:
    """Begin a new session where a visitor (in `session`) pauses for more than `gap` microseconds."""
    history = ibis.window(group_by="session", order_by=ORDER)
    pause = clicks.time - clicks.time.lag().over(history)
    clicks = clicks.mutate(begins=(pause > gap).fill_null(True))
    so_far = ibis.cumulative_window(group_by="session", order_by=ORDER)
    clicks = clicks.mutate(visit=clicks.begins.sum().over(so_far))
    # A session is named by its first row, which no other session has.
    first_row = clicks.row.min().over(ibis.window(group_by=("session", "visit")))
    return clicks.mutate(session=first_row).drop("begins", "visit")


def drop_repeats(clicks: Table) -> Table:
    """Of several clicks in a row on the same item, keep the first."""
    previous = clicks.item.lag().over(ibis.window(group_by="session", order_by=ORDER))
    return clicks.filter((clicks.item != previous).fill_null(True))


def drop_short_sessions(clicks: Table, min_length: int) -> Table:
    """Drop the sessions of fewer than `min_length` clicks."""
    return _keep_frequent(clicks, "session", min_length)


def drop_rare_items(clicks: Table, min_support: int) -> Table:
    """Drop the clicks on items that were clicked fewer than `min_support` times."""
    return _keep_frequent(clicks, "item", min_support)


def _keep_frequent(clicks: Table, key: str, n: int) -> Table:
    return clicks.semi_join(clicks.group_by(key).having(clicks.count() >= n).agg(), key)


def newest_clicks(clicks: Table, longest: int) -> Table:
    """Of each session that is longer, the last `longest` clicks."""
    lengths = clicks.group_by("session").agg(length=clicks.count())
    long = clicks.semi_join(lengths.filter(lengths.length > longest), "session")
    newest_first = [ibis.desc(name) for name in ORDER]
    place = ibis.row_number().over(group_by="session", order_by=newest_first)
    kept = long.mutate(place=place).filter(lambda table: table.place < longest).drop("place")
    return clicks.anti_join(long, "session").union(kept)
