"""From clicks to sessions: cutting visitors' histories, and the filters of the RSC15/GRU4Rec protocol.

Each function makes one query of clicks (session, item, time, tick, row) of another; nothing runs here.
"""

from __future__ import annotations

ORDER = "time, tick, row"  # of the clicks within a session
_HISTORY = f"(PARTITION BY session ORDER BY {ORDER})"


def cut_by_inactivity(clicks: str, gap: int) -> str:
    """Begin a new session where a visitor (in `session`) pauses for more than `gap` microseconds."""
    begins = f"coalesce(time - lag(time) OVER {_HISTORY} > {gap}, true)"
    begun = f"SELECT *, {begins} AS begins FROM {clicks}"
    visits = f"SELECT *, sum(begins::INTEGER) OVER {_HISTORY} AS visit FROM ({begun})"
    # A session is named by its first row, which no other session has.
    return f"""(
        SELECT * EXCLUDE (begins, visit) REPLACE (min(row) OVER (PARTITION BY session, visit) AS session)
        FROM ({visits})
    )"""


def drop_repeats(clicks: str) -> str:
    """Of several clicks in a row on the same item, keep the first."""
    return f"(SELECT * FROM {clicks} QUALIFY coalesce(item != lag(item) OVER {_HISTORY}, true))"


def drop_short_sessions(clicks: str, min_length: int) -> str:
    """Drop the sessions of fewer than `min_length` clicks."""
    return _keep_frequent(clicks, "session", min_length)


def drop_rare_items(clicks: str, min_support: int) -> str:
    """Drop the clicks on items that were clicked fewer than `min_support` times."""
    return _keep_frequent(clicks, "item", min_support)


def _keep_frequent(clicks: str, key: str, n: int) -> str:
    frequent = f"(SELECT {key} FROM {clicks} GROUP BY {key} HAVING count(*) >= {n})"
    return f"(SELECT clicks.* FROM {clicks} AS clicks SEMI JOIN {frequent} USING ({key}))"


def newest_clicks(clicks: str, longest: int) -> str:
    """Of each session that is longer, the last `longest` clicks."""
    long = f"(SELECT session FROM {clicks} GROUP BY session HAVING count(*) > {longest})"
    newest_first = "PARTITION BY session ORDER BY time DESC, tick DESC, row DESC"
    return f"""(
        SELECT clicks.* FROM {clicks} AS clicks ANTI JOIN {long} USING (session)
        UNION ALL
        SELECT clicks.* FROM {clicks} AS clicks SEMI JOIN {long} USING (session)
        QUALIFY row_number() OVER ({newest_first}) <= {longest}
    )"""
