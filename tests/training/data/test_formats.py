"""Every reader: what a format means by session, item, time and order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from service.ranking.item_ids import item_id_problem
from training.data.formats import (
    DIGINETICA,
    RETAILROCKET,
    SECOND,
    YOOCHOOSE,
    Log,
    LogFormat,
    PrepareError,
    detect_format,
    read_log,
)
from training.data.reading import sql
from training.data.reading.reasons import is_bad_id

CSV = LogFormat("session_id", "item_id", "timestamp")


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    return sql.connect()


def clicks(log: Log) -> list[tuple[str, str, int]]:
    """(session, item, microseconds) of every click, in the order that clicks have within a session."""
    found = f"SELECT session, item, time FROM {log.rows} WHERE reason IS NULL ORDER BY time, tick, row"
    return log.con.execute(found).fetchall()


def read(
    con: duckdb.DuckDBPyConnection, file: Path, format_: LogFormat, content: str
) -> list[tuple[str, str, int]]:
    file.write_text(content)
    return clicks(read_log(con, [file], format_))


def test_yoochoose(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    content = "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n"
    assert read(con, tmp_path / "yoochoose-clicks.dat", YOOCHOOSE, content) == [
        ("1", "214536502", 1_396_867_869_277_000),
        ("1", "214536500", 1_396_868_049_868_000),
    ]
    assert detect_format(tmp_path / "yoochoose-clicks.dat") == "yoochoose"


def test_diginetica_orders_a_session_by_its_timeframe(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    content = (
        "sessionId;userId;itemId;timeframe;eventdate\n"
        "1;NA;81766;526309;2016-05-09\n1;NA;31331;1031018;2016-05-09\n1;7;32118;243569;2016-05-09\n"
    )
    day = int(datetime(2016, 5, 9, tzinfo=UTC).timestamp()) * SECOND
    assert read(con, tmp_path / "train-item-views.csv", DIGINETICA, content) == [
        ("1", "32118", day),
        ("1", "81766", day),
        ("1", "31331", day),
    ]
    assert detect_format(tmp_path / "train-item-views.csv") == "diginetica"


def test_retailrocket_keeps_views_unless_told_otherwise(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    file = tmp_path / "events.csv"
    file.write_text(
        "timestamp,visitorid,event,itemid,transactionid\n"
        "1433221332117,257597,view,355908,\n1433221332118,257597,addtocart,355908,\n"
        "1433221332119,257597,transaction,355908,17\n1433221332120,,view,355908,\n"
    )
    log = read_log(con, [file], RETAILROCKET)
    assert clicks(log) == [("257597", "355908", 1_433_221_332_117_000)]
    assert log.other_events == {0: 2}
    rejected = sql.found(con, f"FROM {log.rejected}")
    assert [(row["line"], row["reason"]) for row in rejected] == [(5, "missing_visitor")]
    assert detect_format(file) == "retailrocket"
    con = sql.connect()
    more = read_log(con, [file], replace(RETAILROCKET, events=("view", "addtocart")))
    assert [time for _, _, time in clicks(more)] == [1_433_221_332_117_000, 1_433_221_332_118_000]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_columns_are_found_by_name_whatever_separates_them(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, separator: str
) -> None:
    lines = [
        ["price", "ItemId", "extra", "when", "SessionId", "extra"],
        ["9.99", "x 1", "", "1700000000", "s", ""],
        ['"1,5;0|0\t0"', "y", '"say ""hi"""', "1700000001.5", "s", ""],
    ]
    content = "\ufeff" + "\r\n".join(separator.join(line) for line in lines)
    assert read(con, tmp_path / "log.txt", LogFormat("SessionId", "ItemId", "when"), content) == [
        ("s", "x 1", 1_700_000_000_000_000),
        ("s", "y", 1_700_000_001_500_000),
    ]
    assert detect_format(tmp_path / "log.txt") == "csv"


@pytest.mark.parametrize(
    ("time", "microseconds"),
    [
        ("1396860669.277", 1_396_860_669_277_000),
        ("1396860669", 1_396_860_669_000_000),
        ("1396860669277", 1_396_860_669_277_000),
        ("2014-04-07T08:51:09.277Z", 1_396_860_669_277_000),
        ("2014-04-07T10:51:09.277+02:00", 1_396_860_669_277_000),
        ("2014-04-07T03:21:09-0530", 1_396_860_669_000_000),
        ("2014-04-07 10:51:09+02", 1_396_860_669_000_000),
        ("2014-04-07 08:51:09", 1_396_860_669_000_000),
        ("2014-04-07", 1_396_828_800_000_000),
        ("1396860669277123", 1_396_860_669_277_123),
        ("1396860669277123456", 1_396_860_669_277_123),
        ("2014-04-07 08:51:09 UTC", 1_396_860_669_000_000),
        ("2014-04-07 08:51:09.277123 UTC", 1_396_860_669_277_123),
        ("2014-04-07 08:51:09 GMT", 1_396_860_669_000_000),
    ],
)
def test_the_format_of_times_is_told_by_their_looks(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, time: str, microseconds: int
) -> None:
    content = f"session_id,item_id,timestamp\ns,x,{time}\n"
    assert read(con, tmp_path / "log.csv", CSV, content) == [("s", "x", microseconds)]


@pytest.mark.parametrize(
    "times", [["5", "6"], ["1700000000", "1700000000000"], ["1700000000", "2024-01-01"], ["x"]]
)
def test_times_that_may_mean_several_things_must_be_explained(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, times: Sequence[str]
) -> None:
    content = "session_id,item_id,timestamp\n" + "".join(f"s,x,{time}\n" for time in times)
    with pytest.raises(PrepareError, match="--time-format"):
        read(con, tmp_path / "log.csv", CSV, content)


def test_what_times_are_said_to_be_is_believed(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    content = "session_id,item_id,timestamp\ns,x,1500\n"
    assert read(con, tmp_path / "log.csv", replace(CSV, time_format="milliseconds"), content) == [
        ("s", "x", 1_500_000)
    ]


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_parquet_with_typed_columns(con: duckdb.DuckDBPyConnection, tmp_path: Path, unit: str) -> None:
    """Ids in integer or float columns are their digits; a float column is how a missing integer is stored."""
    when = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    table = pa.table(
        {
            "timestamp": pa.array([when, when], pa.timestamp(unit)),
            "session_id": pa.array([2**53 + 1, 7], pa.int64()),
            "item_id": pa.array([17.0, None], pa.float64()),
        }
    )
    parquet.write_table(table, tmp_path / "log.parquet")
    log = read_log(con, [tmp_path / "log.parquet"], CSV)
    assert clicks(log) == [("9007199254740993", "17", int(when.timestamp()) * SECOND)]
    rejected = sql.found(con, f"FROM {log.rejected}")
    assert [(row["line"], row["reason"]) for row in rejected] == [(2, "missing_item")]
    assert detect_format(tmp_path / "log.parquet") == "csv"


def test_parquet_with_a_time_zone(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    when = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    times = pa.array([when], pa.timestamp("ms", tz="Europe/Paris"))
    parquet.write_table(
        pa.table({"timestamp": times, "session_id": ["s"], "item_id": ["x"]}), tmp_path / "log.parquet"
    )
    log = read_log(con, [tmp_path / "log.parquet"], CSV)
    assert clicks(log) == [("s", "x", int(when.timestamp()) * SECOND)]


@settings(max_examples=30, deadline=None)
@given(
    ids=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300), min_size=1, max_size=20
    )
)
def test_item_ids_are_judged_as_the_service_judges_them(ids: list[str]) -> None:
    con = sql.connect()
    con.execute("CREATE TABLE ids (item VARCHAR)")
    sql.insert(con, "ids", {"item": ids})
    judged = con.execute(f"SELECT {is_bad_id('item')} FROM ids").fetchall()
    assert [is_bad for (is_bad,) in judged] == [item_id_problem(item_id) is not None for item_id in ids]


def test_sessions_are_told_from_other_text(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("12 7 12\n")
    assert detect_format(tmp_path / "train.txt") == "sessions"
