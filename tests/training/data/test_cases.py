"""Small inputs of the kinds that people had trouble with elsewhere, each with what is right."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from tests.training.data.test_lines import DAY, HEADER, START, Click, lines_of, shop
from training.__main__ import app

Prepare = Callable[..., dict[str, Any]]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Run `prepare` on what was written to log; counts and source, and the items of the data set."""

    def prepare(*options: str) -> dict[str, Any]:
        paths = ("--input", str(tmp_path / "log"), "--output", str(tmp_path / "data"))
        done = CliRunner().invoke(app, ["prepare", *paths, "--json", *options])
        assert done.exit_code == 0, done.output
        info = json.loads(done.stdout)
        for source in info["source"]:
            assert source["kept"] + sum(source["rejected"].values()) > 0 or source["lines"] <= 1
        return {**info, "item_ids": (tmp_path / "data" / "items.txt").read_text().splitlines()}

    return prepare


def write(tmp_path: Path, lines: Sequence[str], end: str = "\n", encoding: str = "utf-8") -> None:
    (tmp_path / "log").write_bytes(end.join([*lines, ""]).encode(encoding))


def read_of(info: dict[str, Any]) -> tuple[int, int, int]:
    """Clicks, sessions and rejected rows."""
    counts = info["counts"]
    return counts["read_clicks"], counts["read_sessions"], counts["rejected"]


def test_the_control(tmp_path: Path, prepare: Prepare) -> None:
    write(tmp_path, lines_of(shop()))
    assert read_of(prepare()) == (144, 36, 0)


@pytest.mark.parametrize("sessions", [12, 1334])
def test_a_quote_that_is_never_closed(tmp_path: Path, prepare: Prepare, sessions: int) -> None:
    lines = lines_of(shop(sessions=sessions))
    place = len(lines) // 2
    lines.insert(place, f's9,"27 inch lamp,{START}')
    write(tmp_path, lines)
    info = prepare()
    assert read_of(info) == (12 * sessions, 3 * sessions, 1)
    assert info["source"][0]["rejected"] == {"malformed_row": 1}
    listed = (tmp_path / "data" / "rejected.csv").read_text()
    assert f",{place + 1},malformed_row," in listed


def test_one_stray_carriage_return(tmp_path: Path, prepare: Prepare) -> None:
    lines = lines_of(shop())
    lines[70] += "\r"
    write(tmp_path, lines)
    assert read_of(prepare()) == (144, 36, 0)


def test_line_ends_of_two_files_that_were_glued(tmp_path: Path, prepare: Prepare) -> None:
    lines = lines_of(shop())
    text = "".join(line + ("\r\n" if n < 70 else "\n") for n, line in enumerate(lines))
    (tmp_path / "log").write_bytes(text.encode())
    assert read_of(prepare()) == (144, 36, 0)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_rees46(tmp_path: Path, prepare: Prepare, pack: Callable[[bytes], bytes]) -> None:
    lines = ["event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"]
    for n, (session, item, time) in enumerate(shop()):
        when = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        lines.append(f"{when},{'view' if n % 4 else 'cart'},{ord(item)},77,home.lamp,acme,9.90,5,{session}")
    (tmp_path / "log").write_bytes(pack("\n".join(lines).encode()))
    columns = (
        "--session-column",
        "user_session",
        "--item-column",
        "product_id",
        "--time-column",
        "event_time",
    )
    assert read_of(prepare(*columns)) == (144, 36, 0)
    assert read_of(prepare("--force")) == (144, 36, 0)
    info = prepare("--force", *columns, "--event", "view")
    assert (read_of(info), info["counts"]["other_events"]) == ((108, 36, 0), 36)


def test_epochs_in_microseconds(tmp_path: Path, prepare: Prepare) -> None:
    day = [(session, item, time * 10**6 + 123) for session, item, time in shop(days=1, sessions=36)]
    write(tmp_path, lines_of(day))
    info = prepare("--test-days", "0.1")
    assert read_of(info) == (144, 36, 0)
    [source] = info["source"]
    assert (source["time_unit"], source["first_time"][:10]) == ("microseconds", "2025-11-24")


def test_visitors_that_are_na(tmp_path: Path, prepare: Prepare) -> None:
    clicks = [("NA" if n % 9 < 2 else s, item, time) for n, (s, item, time) in enumerate(shop())]
    write(tmp_path, ["visitor,item_id,timestamp", *lines_of(clicks)[1:]])
    info = prepare("--visitor-column", "visitor")
    assert read_of(info) == (112, 36, 32)
    assert info["source"][0]["rejected"] == {"no_visitor": 32}
    assert read_of(prepare("--force", "--visitor-column", "visitor", "--nobody-alone")) == (144, 68, 0)


def test_one_session_of_the_year_2100(tmp_path: Path, prepare: Prepare) -> None:
    future = 4_102_444_800
    write(tmp_path, lines_of([*shop(), ("lost", "A", future), ("lost", "B", future + 9)]))
    info = prepare()
    assert read_of(info) == (144, 36, 2)
    assert info["counts"]["test_sessions"] in (12, 13)
    assert info["source"][0]["rejected"] == {"outside_time_range": 2}
    assert info["source"][0]["last_time"] < "2025-11-28"


def test_parquet_with_ids_in_bytes(tmp_path: Path, prepare: Prepare) -> None:
    sessions, items, times = zip(*shop(), strict=True)
    columns = {
        "session_id": [session.encode() for session in sessions],
        "item_id": [f"é{item}".encode() for item in items],
        "timestamp": times,
    }
    parquet.write_table(pa.table(columns), tmp_path / "log")
    info = prepare()
    assert read_of(info) == (144, 36, 0)
    assert sorted(info["item_ids"]) == [f"é{item}" for item in "ABCDEF"]


def test_utf_16(tmp_path: Path, prepare: Prepare) -> None:
    write(tmp_path, lines_of(shop()), "\r\n", "utf-16")
    assert read_of(prepare()) == (144, 36, 0)


def test_latin_1(tmp_path: Path, prepare: Prepare) -> None:
    clicks: list[Click] = [(session, item.replace("A", "Café"), time) for session, item, time in shop()]
    write(tmp_path, lines_of(clicks), encoding="latin-1")
    paths = ("--input", str(tmp_path / "log"), "--output", str(tmp_path / "data"))
    refused = CliRunner().invoke(app, ["prepare", *paths])
    assert refused.exit_code == 2
    assert "is not UTF-8 but looks like Latin-1" in refused.output
    assert "Café" in refused.output
    info = prepare("--encoding", "latin-1")
    assert read_of(info) == (144, 36, 0)
    assert "Café" in info["item_ids"]


def test_a_directory_of_parts_of_several_kinds(tmp_path: Path, prepare: Prepare) -> None:
    log = tmp_path / "log"
    log.mkdir()
    days = [[click for click in shop() if click[0].startswith(f"s{day}-")] for day in range(3)]
    (log / "part-0.csv").write_text("\n".join(lines_of(days[0])))
    (log / "part-1.csv").write_text(f"{HEADER}\n")
    (log / "part-2.csv").touch()
    tabbed = [f"{time}\t{item}\t{session}" for session, item, time in days[1]]
    (log / "part-3.csv").write_text("\n".join(["timestamp\titem_id\tsession_id", *tabbed]))
    sessions, items, times = zip(*days[2], strict=True)
    table = pa.table({"session_id": sessions, "item_id": items, "timestamp": times})
    parquet.write_table(table, log / "part-4.snappy.parquet")
    for mark in ("_SUCCESS", "_committed_1", ".part-0.csv.crc", ".hidden"):
        (log / mark).write_text("session_id\nnot a part\n")
    info = prepare()
    assert read_of(info) == (144, 36, 0)
    assert [(Path(source["path"]).name, source["kept"]) for source in info["source"]] == [
        ("part-0.csv", 48),
        ("part-1.csv", 0),
        ("part-3.csv", 48),
        ("part-4.snappy.parquet", 48),
    ]


@pytest.mark.parametrize("is_json", [True, False])
def test_otto(tmp_path: Path, prepare: Prepare, is_json: bool) -> None:
    rows = [
        (session, ord(item), time * 1_000, "clicks" if n % 4 else "carts")
        for n, (session, item, time) in enumerate(shop())
    ]
    lines = ["session,aid,ts,type", *(",".join(map(str, row)) for row in rows)]
    if is_json:
        events: dict[str, list[dict[str, object]]] = {}
        for session, aid, ts, kind in rows:
            events.setdefault(session, []).append({"aid": aid, "ts": ts, "type": kind})
        lines = [json.dumps({"session": session, "events": found}) for session, found in events.items()]
    write(tmp_path, lines)
    info = prepare()
    assert read_of(info) == (144, 36, 0)
    assert info["source"][0]["format"] == f"otto ({'json' if is_json else 'csv'})"
    info = prepare("--force", "--event", "clicks")
    assert (read_of(info), info["counts"]["other_events"]) == ((108, 36, 0), 36)


def test_what_was_understood_is_the_first_that_is_printed(tmp_path: Path) -> None:
    write(tmp_path, lines_of([*shop(), ("lost", "A", START + 100 * DAY)]))
    paths = ("--input", str(tmp_path / "log"), "--output", str(tmp_path / "data"))
    done = CliRunner().invoke(app, ["prepare", *paths])
    assert done.output.splitlines()[:7] == [
        str(tmp_path / "log"),
        "  format    csv, utf-8, separated by comma",
        "  columns   session = session_id (text), item = item_id (text)",
        "            time = timestamp (seconds)",
        "  lines     146 in all, 144 clicks kept, 1 rejected",
        "  rejected  outside time range 1",
        "  times     2025-11-24T16:00:00Z to 2025-11-26T17:51:00Z",
    ]
