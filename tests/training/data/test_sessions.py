"""Session cutting and filters, each alone against the plain protocol."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training import protocol
from training.data.formats import SECOND
from training.data.reading import sql
from training.data.sessions import (
    cut_by_inactivity,
    drop_rare_items,
    drop_repeats,
    drop_short_sessions,
    newest_clicks,
)

Log = list[tuple[str, str, float]]

logs = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 12).map(float)),
    min_size=1,
    max_size=25,
)


@pytest.fixture(scope="module")
def apply() -> Callable[[Log, Callable[[str], str]], list[list[str]]]:
    """Run a function of clicks on a log; the items of every session that is left, in alphabetical order."""
    con = sql.connect()

    def apply(log: Log, function: Callable[[str], str]) -> list[list[str]]:
        columns = {
            "session": [ord(session) for session, _, _ in log],
            "item": [ord(item) for _, item, _ in log],
            "time": [int(time) * SECOND for _, _, time in log],
            "tick": [0] * len(log),
            "row": list(range(len(log))),
        }
        con.register("clicks", pa.table(columns))
        sessions: dict[int, list[tuple[int, int, int]]] = {}
        for click in sql.found(con, f"FROM {function('clicks')}"):
            sessions.setdefault(click["session"], []).append((click["time"], click["row"], click["item"]))
        return sorted([chr(item) for _, _, item in sorted(clicks)] for clicks in sessions.values())

    return apply


def items(sessions: list[protocol.Session]) -> list[list[str]]:
    return sorted(session.items for session in sessions)


Apply = Callable[[Log, Callable[[str], str]], list[list[str]]]


@settings(max_examples=15, deadline=None)
@given(log=logs, gap=st.integers(0, 5))
def test_visitors_are_cut_where_they_pause(apply: Apply, log: Log, gap: int) -> None:
    assert apply(log, lambda clicks: cut_by_inactivity(clicks, gap * SECOND)) == items(protocol.cut(log, gap))


def test_a_pause_of_just_the_gap_does_not_cut(apply: Apply) -> None:
    log: Log = [("a", "x", 0), ("a", "y", 5), ("b", "x", 5), ("a", "z", 11)]
    assert apply(log, lambda clicks: cut_by_inactivity(clicks, 5 * SECOND)) == [["x"], ["x", "y"], ["z"]]


@settings(max_examples=15, deadline=None)
@given(log=logs, n=st.integers(1, 4))
def test_filters_keep_what_the_protocol_keeps(apply: Apply, log: Log, n: int) -> None:
    sessions = protocol.read(log)
    assert apply(log, drop_repeats) == items(protocol.without_repeats(sessions))
    assert apply(log, lambda clicks: drop_short_sessions(clicks, n)) == items(protocol.long_only(sessions, n))
    assert apply(log, lambda clicks: drop_rare_items(clicks, n)) == items(protocol.frequent_only(sessions, n))


@settings(max_examples=15, deadline=None)
@given(log=logs, longest=st.integers(1, 6))
def test_of_a_long_session_the_newest_clicks_are_kept(apply: Apply, log: Log, longest: int) -> None:
    whole = apply(log, lambda clicks: clicks)
    kept = apply(log, lambda clicks: newest_clicks(clicks, longest))
    assert kept == sorted(session[-longest:] for session in whole)
