"""The temporal split, at its edges."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import pyarrow as pa
import pytest

from training.data.reading import sql
from training.data.split import drop_unseen_items, split_cut, split_whole

# Sessions around a cut at time 10: before it, up to just before it, on it, across it, from it on.
CLICKS = [
    ("before", "x", 1),
    ("before", "y", 2),
    ("up to", "x", 8),
    ("up to", "y", 9),
    ("on", "y", 9),
    ("on", "z", 10),
    ("across", "x", 9),
    ("across", "z", 12),
    ("from", "y", 10),
    ("from", "new", 11),
]


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    columns = dict(zip(("session", "item", "time"), map(list, zip(*CLICKS, strict=True)), strict=True))
    con = sql.connect()
    con.register("clicks", pa.table(columns))
    return con


def found(con: duckdb.DuckDBPyConnection, clicks: str) -> set[tuple[str, str, int]]:
    return set(con.execute(f"FROM {clicks}").fetchall())


def chosen(keep: Callable[[str, int], bool]) -> set[tuple[str, str, int]]:
    return {(session, item, time) for session, item, time in CLICKS if keep(session, time)}


def test_a_session_goes_whole_to_where_its_last_click_is(con: duckdb.DuckDBPyConnection) -> None:
    train, test = split_whole("clicks", cutoff=10)
    assert found(con, train) == chosen(lambda session, time: session in ("before", "up to"))
    assert found(con, test) == chosen(lambda session, time: session in ("on", "across", "from"))


def test_a_cut_session_leaves_its_head_in_training_and_nothing_in_the_test(
    con: duckdb.DuckDBPyConnection,
) -> None:
    train, test = split_cut("clicks", cutoff=10)
    assert found(con, train) == chosen(lambda session, time: time < 10)
    assert found(con, test) == chosen(lambda session, time: session == "from")


def test_test_clicks_on_items_unseen_in_training_are_dropped(con: duckdb.DuckDBPyConnection) -> None:
    train, test = split_whole("clicks", cutoff=10)
    assert found(con, drop_unseen_items(test, train)) == {
        ("on", "y", 9),
        ("across", "x", 9),
        ("from", "y", 10),
    }
