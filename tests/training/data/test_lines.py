"""Other people's files as they are: every line of them is a click, is rejected by name, or is refused."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, orc, parquet

from training.data.clicks import COLLECTED
from training.data.formats import (
    EVENT,
    OTTO,
    REES46,
    Log,
    LogFormat,
    PrepareError,
    detect_format,
    is_json,
    log_files,
    read_any,
    read_json,
    read_log,
)
from training.data.prepare import Rules, prepare
from training.data.reading import sql
from training.data.reading.lines import BLOCK, LONGEST_LINE

CSV = LogFormat("session_id", "item_id", "timestamp")
HEADER = "session_id,item_id,timestamp"
START = 1_764_000_000
DAY = 86_400

Click = tuple[str, str, int]


def shop(days: int = 3, sessions: int = 12) -> list[Click]:
    """Three days with 12 sessions of 4 clicks on 6 items."""
    return [
        (f"s{day}-{n}", "ABCDEF"[(day + n + 2 * place) % 6], START + DAY * day + 600 * n + 20 * place)
        for day in range(days)
        for n in range(sessions)
        for place in range(4)
    ]


def lines_of(clicks: Sequence[Click]) -> list[str]:
    return [HEADER, *(",".join(map(str, click)) for click in clicks)]


def read(file: Path, format_: LogFormat = CSV) -> tuple[list[Click], list[tuple[int, str]]]:
    """The clicks in the order of the file, and line and reason of every line that is none."""
    log = (read_json if is_json(file) else read_log)(sql.connect(), [file], format_)
    return clicks_of(log), rejected_of(log)


def clicks_of(log: Log) -> list[Click]:
    found = f"SELECT session, item, time // 1_000_000 FROM {log.rows} WHERE reason IS NULL ORDER BY row, tick"
    return log.con.execute(found).fetchall()


def rejected_of(log: Log) -> list[tuple[int, str]]:
    return log.con.execute(f"SELECT line, reason FROM {log.rejected} ORDER BY line").fetchall()


# Swallowed rows


@pytest.mark.parametrize("sessions", [12, 1_300])  # the second is larger than a buffer of the reader
@pytest.mark.parametrize("place", [1, 77, 140])
def test_a_quote_that_is_never_closed_costs_its_own_line(tmp_path: Path, sessions: int, place: int) -> None:
    clicks = shop(sessions=sessions)
    lines = lines_of(clicks)
    lines.insert(place, f's9,"27 inch lamp,{START}')
    (tmp_path / "log.csv").write_text("\n".join(lines))
    assert read(tmp_path / "log.csv") == (clicks, [(place + 1, "malformed_row")])


def test_what_stands_around_a_broken_line_is_listed_with_its_own_line(tmp_path: Path) -> None:
    lines = [HEADER, "", f"a,x,{START}", '"', "", f",y,{START}", f'b,27",{START}', f'b,"z" z,{START}', "\x0c"]
    (tmp_path / "log.csv").write_text("\n".join([*lines, f'"c","say ""hi""",{START}', ""]))
    assert read(tmp_path / "log.csv") == (
        [("a", "x", START), ("b", '27"', START), ("c", 'say "hi"', START)],
        [(4, "malformed_row"), (6, "missing_session"), (8, "malformed_row"), (9, "malformed_row")],
    )


def test_a_record_may_go_over_several_lines(tmp_path: Path) -> None:
    """Of which none is a record by itself: then the lines after it keep their numbers, too."""
    content = f'session_id,title,item_id,timestamp\na,"one\ntwo, three\n\n""four""",x,{START}\na,,,{START}\n'
    (tmp_path / "log.csv").write_text(content)
    assert read(tmp_path / "log.csv") == ([("a", "x", START)], [(6, "missing_item")])


def test_a_line_of_a_megabyte_is_named(tmp_path: Path) -> None:
    clicks = shop()
    lines = lines_of(clicks)
    for place, length in ((3, LONGEST_LINE + 1), (10, 5 * BLOCK + 3)):
        lines.insert(place, f"s,{'x' * length},{START}")
    for last in ("", "x" * 2 * BLOCK):
        (tmp_path / "log.csv").write_text("\n".join([*lines, last]))
        more = [(len(lines) + 1, "line_too_long")] if last else []
        assert read(tmp_path / "log.csv") == (
            clicks,
            [(4, "line_too_long"), (11, "line_too_long"), *more],
        )


def test_blank_lines_cost_nothing_and_push_the_others_down(tmp_path: Path) -> None:
    """They are no reason to read line by line, wherever they stand."""
    lines = ["", HEADER, "", f"a,x,{START}", "", "", "a,b", f",y,{START}", "", f"a,z,{START}", "", ""]
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "log.csv").write_bytes(end.join(lines).encode())
        log = read_log(sql.connect(), [tmp_path / "log.csv"], CSV)
        assert clicks_of(log) == [("a", "x", START), ("a", "z", START)]
        assert rejected_of(log) == [(7, "malformed_row"), (8, "missing_session")]
        assert log.by_line == ()
    (tmp_path / "log.csv").write_text("\n".join([*lines[:5], '"never closed', *lines[5:]]))
    log = read_log(sql.connect(), [tmp_path / "log.csv"], CSV)
    assert log.by_line == (tmp_path / "log.csv",)


def test_blank_lines_are_counted_across_blocks(tmp_path: Path) -> None:
    lines = [HEADER]
    for n in range(BLOCK // 5):
        lines += [""] * (n % 3) + [f"s{n},x,{START}" if n % 1000 else "broken"]
    (tmp_path / "log.csv").write_text("\r\n".join(lines))
    log = read_log(sql.connect(), [tmp_path / "log.csv"], CSV)
    broken = [n for n, line in enumerate(lines, 1) if line == "broken"]
    assert rejected_of(log) == [(n, "malformed_row") for n in broken]
    assert sql.value(log.con, "SELECT count(*) FROM malformed") == lines.count("") + len(broken)
    assert log.by_line == ()


# Line endings


@pytest.mark.parametrize(
    "ends",
    [
        ["\n"],
        ["\r\n"],
        ["\r"],
        ["\n", "\r\n"],
        ["\n"] * 70 + ["\r\n"],
        ["\r\n"] * 70 + ["\n"] * 70,
        ["\r", "\n"],
    ],
)
@pytest.mark.parametrize("is_ended", [True, False])
def test_lines_may_end_in_every_way_and_in_several(tmp_path: Path, ends: list[str], is_ended: bool) -> None:
    clicks = shop()
    content = "".join(line + ends[n % len(ends)] for n, line in enumerate(lines_of(clicks)))
    (tmp_path / "log.csv").write_bytes((content if is_ended else content.rstrip()).encode())
    assert read(tmp_path / "log.csv") == (clicks, [])


def test_a_carriage_return_within_a_line_ends_it(tmp_path: Path) -> None:
    clicks = shop()
    lines = lines_of(clicks)
    (tmp_path / "log.csv").write_bytes("\n".join([*lines, f"s,x\r,{START}"]).encode())
    n = len(lines) + 1
    assert read(tmp_path / "log.csv") == (clicks, [(n, "malformed_row"), (n + 1, "malformed_row")])


def test_half_a_line_end_at_the_end_of_a_block_is_one(tmp_path: Path) -> None:
    filler = f"{HEADER}\n" + f"c,y,{START}\n" * ((BLOCK - 100) // len(f"c,y,{START}\n"))
    pad = "z" * (BLOCK - 1 - len(filler) - len(f"a,,{START}"))
    content = f"{filler}a,{pad},{START}\r\nlast,x,{START}\n"
    assert content.encode()[BLOCK - 1 : BLOCK + 1] == b"\r\n"
    (tmp_path / "log.csv").write_bytes(content.encode())
    clicks, rejected = read(tmp_path / "log.csv")
    assert clicks[-1] == ("last", "x", START)
    assert len(clicks) + len(rejected) == content.count("\n") - 1


# Ids


@pytest.mark.parametrize("nothing", ["NA", "null", "\\N", "(not set)", " None "])
def test_those_that_are_nobody_are_not_one_visitor(tmp_path: Path, nothing: str) -> None:
    clicks = [
        (nothing if n % 3 == 0 else session, item, time) for n, (session, item, time) in enumerate(shop())
    ]
    (tmp_path / "log.csv").write_text("\n".join(lines_of(clicks)))
    by_visitor = replace(CSV, by_visitor=True)
    kept, rejected = read(tmp_path / "log.csv", by_visitor)
    assert kept == [click for click in clicks if click[0] != nothing]
    assert {reason for _, reason in rejected} == {"no_visitor"}
    assert len(kept) + len(rejected) == len(clicks)
    alone, rejected = read(tmp_path / "log.csv", replace(by_visitor, nobody_alone=True))
    assert (len(alone), rejected) == (len(clicks), [])
    assert len({session for session, _, _ in alone} - {session for session, _, _ in kept}) == len(clicks) // 3
    as_is, _ = read(tmp_path / "log.csv", replace(by_visitor, nothing=("-",)))
    assert as_is == clicks

    info = prepare(
        [tmp_path / "log.csv"], tmp_path / "data", log_format=by_visitor, rules=Rules(min_item_support=1)
    )
    assert info.counts["rejected_no_visitor"] == len(clicks) // 3


def test_items_that_are_nothing_are_missing(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"{HEADER}\na,NULL,{START}\na,x,NA\na,NAN,{START}\n")
    assert read(tmp_path / "log.csv") == (
        [("a", "NAN", START)],
        [(2, "missing_item"), (3, "missing_time")],
    )


def test_an_id_that_the_service_took_is_one_whatever_it_looks_like(tmp_path: Path) -> None:
    row = {"session_id": ["NA"], "item_id": ["None"], "timestamp": [float(START)], "type": ["click"]}
    parquet.write_table(pa.table(row), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet", COLLECTED) == ([("NA", "None", START)], [])


def test_parquet_is_told_by_its_content_and_its_bytes_are_text(tmp_path: Path) -> None:
    """Many writers store text without saying that it is text; what cannot be text is no id."""
    table = pa.table(
        {
            "session_id": pa.array([b"a", b"\xc3\xa9", b"b", b"c"], pa.binary()),
            "item_id": pa.array(["éA".encode(), b"x", b"\xff\xfe\x01", None], pa.binary()),
            "timestamp": [START] * 4,
        }
    )
    parquet.write_table(table, tmp_path / "part-0")
    assert detect_format(tmp_path / "part-0") == "csv"
    assert read(tmp_path / "part-0") == (
        [("a", "éA", START), ("é", "x", START)],
        [(3, "missing_item"), (4, "missing_item")],
    )


def test_decimals_in_parquet_are_ids_without_their_zeros(tmp_path: Path) -> None:
    ids = pa.array([Decimal("17.000"), Decimal("17.500")], pa.decimal128(38, 3))
    parquet.write_table(
        pa.table({"session_id": ["a", "a"], "item_id": ids, "timestamp": [START] * 2}), tmp_path / "x.parquet"
    )
    assert [item for _, item, _ in read(tmp_path / "x.parquet")[0]] == ["17", "17.500"]


@pytest.mark.parametrize("type_", [pa.float64(), pa.float32()])
def test_floats_that_cannot_be_exact_are_no_ids(tmp_path: Path, type_: pa.DataType) -> None:
    exact = 2**53 if type_ == pa.float64() else 2**24
    ids = pa.array([float(exact - 1), float(exact), -1e30, float("inf"), float("nan"), 17.0], type_)
    table = {"session_id": ["a"] * 6, "item_id": ids, "timestamp": [START] * 6}
    parquet.write_table(pa.table(table), tmp_path / "x.parquet")
    kept, rejected = read(tmp_path / "x.parquet")
    assert [item for _, item, _ in kept] == [str(exact - 1), "17"]
    assert rejected == [(2, "inexact_id"), (3, "inexact_id"), (4, "inexact_id"), (5, "missing_item")]


def test_truth_values_in_parquet_are_no_ids(tmp_path: Path) -> None:
    table = {"session_id": ["a", "a", "a"], "item_id": [True, False, None], "timestamp": [START] * 3}
    parquet.write_table(pa.table(table), tmp_path / "x.parquet")
    rejected = [(1, "malformed_id"), (2, "malformed_id"), (3, "missing_item")]
    assert read(tmp_path / "x.parquet") == ([], rejected)


def test_numbers_of_json_are_ids_if_they_are_exact(tmp_path: Path) -> None:
    written = ["7", '"007"', "9007199254740993", "18446744073709551615", "1e17", "1" * 30, "[1]", '{"a": 1}']
    written += ["true"]
    lines = [f'{{"session_id": "a", "item_id": {item}, "timestamp": {START}}}' for item in written]
    (tmp_path / "log.json").write_text("\n".join([*lines, lines[0].replace('"a"', "1.5e300")]))
    kept, rejected = read(tmp_path / "log.json")
    assert [item for _, item, _ in kept] == ["7", "007", "9007199254740993", "18446744073709551615"]
    inexact, malformed = "inexact_id", "malformed_id"
    assert rejected == [(5, inexact), (6, inexact), *((n, malformed) for n in (7, 8, 9)), (10, inexact)]


def test_floats_of_json_are_whole_where_they_are(tmp_path: Path) -> None:
    written = {"17.0": "17", "17.5": "17.5", "1e5": "100000", "-3.0": "-3", '"17.0"': "17.0"}
    lines = [f'{{"session_id": 4.0, "item_id": {item}, "timestamp": {START}}}\n' for item in written]
    (tmp_path / "log.json").write_text("".join(lines))
    assert read(tmp_path / "log.json") == ([("4", item, START) for item in written.values()], [])


@pytest.mark.parametrize("is_by_line", [False, True])
def test_a_column_of_floats_in_csv_is_of_whole_numbers(tmp_path: Path, is_by_line: bool) -> None:
    """As of Parquet: so pandas writes whole numbers beside a missing one."""
    ids = ["17.0", "", "0.0", "nan", "9007199254740991.0", "9007199254740993.0", " 18.0"]
    rows = [f"4.0,{item},{START}" for item in ids]
    broken = [f'5.0,"x,{START}'] if is_by_line else []
    lines = [
        "session_id,item_id,timestamp",
        *rows,
        *broken,
        "session_id,item_id,timestamp",
        f"5.0,8.0,{START}",
    ]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    kept, rejected = read(tmp_path / "log.csv")
    assert kept == [("4", item, START) for item in ("17", "0", "9007199254740991", "18")] + [
        ("5", "8", START)
    ]
    reasons = [(3, "missing_item"), (5, "missing_item"), (7, "inexact_id")]
    reasons += [(9, "malformed_row")] * is_by_line
    assert rejected == [*reasons, (9 + is_by_line, "repeated_header")]


def test_a_space_after_each_separator_is_of_no_id(tmp_path: Path) -> None:
    rows = [f"s, {item}, {START}" for item in ("17", "", " two words ", "NULL")]
    lines = ["session_id, item_id, timestamp", *rows, "session_id, item_id, timestamp", f"t, 9, {START}"]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    kept, rejected = read(tmp_path / "log.csv")
    assert kept == [("s", "17", START), ("s", "two words", START), ("t", "9", START)]
    assert rejected == [(3, "missing_item"), (5, "missing_item"), (6, "repeated_header")]


@pytest.mark.parametrize("unclosed", [[], ['b, "z']])
def test_spaces_around_quotes_are_overlooked(tmp_path: Path, unclosed: list[str]) -> None:
    lines = ['"session_id", "note", "item_id", "timestamp"', f'a, "", "x", "{START}"', f'a,, "", "{START}" ']
    lines += [f'"b" , k, "say ""y"", z"  ,{START}', 'b, "two', f'lines", "w", {START}', *unclosed]
    (tmp_path / "log.csv").write_text("\n".join([*lines, f'b, k, "z", {START}']))
    clicks = [
        (session, item, START) for session, item in (("a", "x"), ("b", 'say "y", z'), ("b", "w"), ("b", "z"))
    ]
    refused = [(3, "missing_item")] + [(7, "malformed_row")] * len(unclosed)
    assert read(tmp_path / "log.csv") == (clicks, refused)


def test_a_space_before_some_ids_is_theirs(tmp_path: Path) -> None:
    lines = ["session_id,item_id,timestamp", f"a, 17,{START}", f"a,17,{START}", f"a,18 ,{START}"]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    assert [item for _, item, _ in read(tmp_path / "log.csv")[0]] == [" 17", "17", "18 "]


@pytest.mark.parametrize("other", ["17.5", "007.0", "x", "17", "1e5"])
def test_one_other_id_makes_a_column_of_csv_text(tmp_path: Path, other: str) -> None:
    lines = ["session_id,item_id,timestamp", f"a,17.0,{START}", f"a,{other},{START}"]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    assert [item for _, item, _ in read(tmp_path / "log.csv")[0]] == ["17.0", other]


def test_what_a_spreadsheet_has_rounded_is_no_id(tmp_path: Path) -> None:
    rounded = ["1.23457E+12", "1E+12", "1,23457E+12", " 9.1e+15 "]
    written = ["E+1", "AE+12", "12E10", "1.2E12", "1.23457E+", "10.5E+12"]
    lines = [f'a,"{item}",{START}\n' for item in [*rounded, *written]] + [f"1.7E+11,x,{START}\n"]
    (tmp_path / "log.csv").write_text("session_id,item_id,timestamp\n" + "".join(lines))
    kept, rejected = read(tmp_path / "log.csv")
    assert [item for _, item, _ in kept] == written
    assert rejected == [(line, "inexact_id") for line in (2, 3, 4, 5, 12)]


@pytest.mark.parametrize(
    ("rounded", "exact", "seconds"),
    [
        ("1.7E+09", "1.700000001E+09", 1_700_000_001),
        ("1.700000e+09", "1.700000000000000000e+09", 1_700_000_000),
        ("1.70000E+12", "1.700000001E+12", 1_700_000_001),
        ("1.70000E+15", "1.700000001E+15", 1_700_000_001),
    ],
)
def test_a_time_that_is_rounded_is_none(tmp_path: Path, rounded: str, exact: str, seconds: int) -> None:
    (tmp_path / "log.csv").write_text(f"session_id,item_id,timestamp\na,x,{rounded}\na,y,{exact}\n")
    assert read(tmp_path / "log.csv") == ([("a", "y", seconds)], [(2, "inexact_time")])


def test_nanoseconds_in_floats_are_exact_enough(tmp_path: Path) -> None:
    times = pa.array([START * 1e9, 1.7e18, None], pa.float64())
    table = {"session_id": ["a"] * 3, "item_id": ["x"] * 3, "timestamp": times}
    parquet.write_table(pa.table(table), tmp_path / "x.parquet")
    kept = [("a", "x", START), ("a", "x", 1_700_000_000)]
    assert read(tmp_path / "x.parquet") == (kept, [(3, "missing_time")])


# Packing, encodings, parts


PACKERS: list[Callable[[bytes], bytes]] = [
    gzip.compress,
    bz2.compress,
    lzma.compress,
    lambda content: pa.Codec("zstd").compress(content, asbytes=True),
    lambda content: gzip.compress(content[:1000]) + gzip.compress(content[1000:]),
]


@pytest.mark.parametrize("pack", PACKERS)
def test_packed_files_are_unpacked_whatever_their_name(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    clicks = shop()
    packed = pack("\n".join(lines_of(clicks)).encode())
    (tmp_path / "log").write_bytes(packed)
    assert detect_format(tmp_path / "log") == "csv"
    assert read(tmp_path / "log") == (clicks, [])
    (tmp_path / "log").write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(PrepareError, match="is damaged or cut off"):
        read(tmp_path / "log")


def test_an_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(PrepareError, match="is a zip archive: unpack it first"):
        detect_format(tmp_path / "log.csv")


def test_a_file_that_holds_no_lines_is_named_for_what_it_is(tmp_path: Path) -> None:
    table = pa.table({"session_id": ["a"], "item_id": ["x"], "timestamp": [START]})
    orc.write_table(table, tmp_path / "log.orc")
    feather.write_feather(table, tmp_path / "log.feather", compression="uncompressed")
    with contextlib.closing(sqlite3.connect(tmp_path / "log.sqlite")) as db:
        db.execute("CREATE TABLE clicks (session_id, item_id)")
    (tmp_path / "log.avro").write_bytes(b"Obj\x01\x04\x14avro.codec")
    (tmp_path / "log.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    (tmp_path / "log.xlsx").write_bytes(b"PK\x03\x04rest")
    for name, what in {
        "orc": "an ORC file: write it as CSV, JSON lines or Parquet",
        "feather": "an Arrow file",
        "sqlite": "an SQLite database",
        "avro": "an Avro file",
        "xls": "a document of Microsoft Office",
        "xlsx": "a spreadsheet: save it as CSV",
    }.items():
        with pytest.raises(PrepareError, match=rf"log\.{name}: is {what}"):
            detect_format(tmp_path / f"log.{name}")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[{"session_id": "a", "item_id": "x"}]', r"a JSON array: .*`jq -c '\.\[\]'`"),
        ('[\n  {"session_id": "a", "item_id": "x"}\n]', "a JSON array"),
        ('\n {\n  "session_id": "a"\n}', "JSON over several lines: .*`jq -c .`"),
        ("<!DOCTYPE html>\n<p>Log in first</p>", "a page of HTML or XML.*'<!DOCTYPE html>'"),
        ('\ufeff<?xml version="1.0"?><clicks/>', "a page of HTML or XML"),
    ],
)
def test_a_document_is_no_log(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "log").write_text(text)
    with pytest.raises(PrepareError, match=f"log: is {what}"):
        detect_format(tmp_path / "log")
    with pytest.raises(PrepareError, match=f"log: is {what}"):
        read(tmp_path / "log")


def test_a_header_in_brackets_is_none(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"[session_id],[item_id],[timestamp]\na,x,{START}\n")
    named = replace(CSV, session="[session_id]", item="[item_id]", time="[timestamp]")
    assert read(tmp_path / "log.csv", named) == ([("a", "x", START)], [])


@pytest.mark.parametrize("first", ["log.csv", "log.jsonl", "log.parquet"])
@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("session", "--session-column, or visitors with --visitor-column"),
        ("item", "--item-column"),
        ("time", "--time-column"),
    ],
)
def test_a_column_that_is_missing_is_told_with_the_option_that_names_it(
    tmp_path: Path, first: str, field: str, option: str
) -> None:
    row = {"session_id": "a", "item_id": "x", "timestamp": START}
    parquet.write_table(pa.table({name: [value] for name, value in row.items()}), tmp_path / "log.parquet")
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "log.csv").write_text(f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")
    renamed: dict[str, Any] = {field: "other"}
    with pytest.raises(PrepareError, match=rf"{first}: .*'other'.*; name it with {option}$"):
        read(tmp_path / first, replace(CSV, **renamed))


def test_parquet_beside_lines_of_json_lacks_a_column(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(json.dumps({"session_id": "a", "item_id": "x", "timestamp": START}))
    parquet.write_table(pa.table({"session_id": ["a"], "timestamp": [START]}), tmp_path / "2.parquet")
    with pytest.raises(PrepareError, match=r"2\.parquet: .*'item_id'.*; name it with --item-column"):
        read_any(sql.connect(), [tmp_path / "1.jsonl", tmp_path / "2.parquet"], CSV)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_told_by_itself(tmp_path: Path, encoding: str) -> None:
    clicks = [(session, f"Café {item}", time) for session, item, time in shop()]
    (tmp_path / "log.csv").write_bytes("\r\n".join(lines_of(clicks)).encode(encoding))
    assert detect_format(tmp_path / "log.csv") == "csv"
    assert read(tmp_path / "log.csv") == (clicks, [])


def test_latin_1_is_named_with_its_line_and_what_to_do(tmp_path: Path) -> None:
    clicks = shop()
    clicks[4:4] = [("a", "Café", START)]
    (tmp_path / "log.csv").write_bytes("\n".join(lines_of(clicks)).encode("latin-1"))
    with pytest.raises(
        PrepareError, match=r"line 6 .* looks like Latin-1, 'a,Café,.*--encoding windows-1252"
    ):
        read(tmp_path / "log.csv")
    assert read(tmp_path / "log.csv", replace(CSV, encoding="windows-1252")) == (clicks, [])
    kept, rejected = read(tmp_path / "log.csv", replace(CSV, encoding="utf-8"))
    assert (kept, rejected) == (shop(), [(6, "not_utf8")])


def test_a_damaged_line_of_utf_8_is_one_line(tmp_path: Path) -> None:
    clicks = [("a", "é", START), ("b", "è", START), ("c", "ü", START)]
    content = "\n".join(lines_of(clicks)).encode()
    (tmp_path / "log.csv").write_bytes(content.replace("è".encode(), b"\xc3"))
    assert read(tmp_path / "log.csv") == ([clicks[0], clicks[2]], [(3, "not_utf8")])
    (tmp_path / "log.csv").write_bytes(b"\xff" + content)
    with pytest.raises(PrepareError, match="line 1, the header, cannot be read: not_utf8"):
        read(tmp_path / "log.csv")


def test_a_file_may_say_its_separator(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"\ufeffsep=^\nsession_id^item_id^timestamp\na^x^{START}\na^^{START}\n")
    assert read(tmp_path / "log.csv") == ([("a", "x", START)], [(4, "missing_item")])


@pytest.mark.parametrize(
    ("before", "header"),
    [
        ("# Exported by a shop, 2026-01-31\n#\n\n# timestamp in seconds\n", "session_id,item_id,timestamp"),
        ("\ufeff# Exported\r\nsep=;\r\n", "session_id;item_id;timestamp"),
        ("sep=;\n# Exported\n", '"session_id" ; "item_id";timestamp'),
        ("# Exported\n", "#\tsession_id\titem_id\ttimestamp"),
        ("", "#,session_id,item_id,timestamp"),
        ("# from an array of numpy\n", "# session_id|item_id|timestamp"),
        ("", "#session_id,item_id,timestamp"),
    ],
)
def test_a_header_is_found_below_comments_or_as_one(tmp_path: Path, before: str, header: str) -> None:
    separator = next(each for each in "\t;|," if each in header)
    counted = ["1"] if header.startswith(f"#{separator}") else []
    rows = [separator.join([*counted, "a", item, str(START)]) for item in ("x", "")]
    (tmp_path / "log.csv").write_text(before + "\n".join([header, *rows, "# Total: 2"]))
    n_before = before.count("\n") + 1
    clicks, rejected = read(tmp_path / "log.csv")
    assert clicks == [("a", "x", START)]
    assert rejected == [(n_before + 2, "missing_item"), (n_before + 3, "malformed_row")]


def test_comments_are_no_header(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("# Exported\n# nothing\n")
    with pytest.raises(PrepareError, match="there is no column 'session_id', but '# Exported'; name it"):
        read(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text(f"# Exported\nvisit,item_id,timestamp\na,x,{START}\n")
    with pytest.raises(PrepareError, match="'session_id', but 'visit', 'item_id', 'timestamp'; name it"):
        read(tmp_path / "log.csv")


def test_the_parts_of_a_directory_make_one_log(tmp_path: Path) -> None:
    clicks = shop()
    parts = tmp_path / "parts"
    (parts / "day=2").mkdir(parents=True)
    (parts / "_SUCCESS").touch()
    (parts / ".part-0.crc").write_bytes(b"\0")
    (parts / "part-0").write_text("\n".join(lines_of(clicks[:48])))
    (parts / "part-1").touch()
    (parts / "part-2").write_text(f"{HEADER}\n")
    (parts / "part-3.gz").write_bytes(gzip.compress("\n".join(lines_of(clicks[48:96])).encode()))
    tabbed = [f"{time}\t{session}\t{item}" for session, item, time in clicks[96:]]
    (parts / "day=2" / "part-4").write_text("\n".join(["timestamp\tsession_id\titem_id", *tabbed]))
    words: list[str] = []
    info = prepare(
        [parts], tmp_path / "data", log_format=CSV, rules=Rules(min_item_support=1), tell=words.append
    )
    assert (info.counts["read_clicks"], info.counts["read_sessions"], info.counts["rejected"]) == (144, 36, 0)
    assert words == [f"{parts / 'part-1'}: is empty, and skipped"]
    assert [file.name for file in log_files([parts / "part-*"])] == ["part-0", "part-2", "part-3.gz"]
    assert log_files([parts, parts / "part-0"], words.append) == log_files([parts])
    assert words[1:] == [words[0], f"{parts / 'part-0'}: is named 2 times, and read once"]
    with pytest.raises(PrepareError, match="no file matches"):
        log_files([parts / "*.csv"])
    with pytest.raises(PrepareError, match="every file of it is empty"):
        log_files([parts / "*-1"])


NOTHINGS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16": codecs.BOM_UTF16_LE,
    "utf-32": codecs.BOM_UTF32_BE,
    **{name: pack(b"") for name, pack in zip(("gzip", "bzip2", "xz", "zstd"), PACKERS[:4], strict=True)},
    "packed mark": gzip.compress(codecs.BOM_UTF8),
}


# By name: a gzip holds the time it was made at, and workers must find the same tests.
@pytest.mark.parametrize("nothing", NOTHINGS.values(), ids=NOTHINGS)
def test_a_file_without_a_character_is_empty(tmp_path: Path, nothing: bytes) -> None:
    """As writers of packed parts leave it, which have bytes all the same."""
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "0").write_text("\n".join(lines_of(shop())))
    (parts / "1").write_bytes(nothing)
    words = list[str]()
    assert log_files([parts], words.append) == [parts / "0"]
    assert words == [f"{parts / '1'}: is empty, and skipped"]
    for reading in (detect_format, read):
        with pytest.raises(PrepareError, match=r"^.*1: the file is empty$"):
            reading(parts / "1")


# Headers


@pytest.mark.parametrize("format_", [CSV, replace(CSV, event="kind", events=("view",))])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_files_that_were_joined_have_headers_within(tmp_path: Path, format_: LogFormat, mark: str) -> None:
    """They are no clicks, no damage, and no other event; what only looks like one is as it was."""
    header, *lines = (f"{line},{'kind' if n == 0 else 'view'}" for n, line in enumerate(lines_of(shop())))
    lines[70:70] = [f"{mark}{header}", "session_id,item_id,x,view"]
    (tmp_path / "log.csv").write_text("\n".join([header, *lines]))
    assert read(tmp_path / "log.csv", format_) == (
        shop(),
        [(72, "repeated_header"), (73, "unparsable_time")],
    )
    lines.remove(f"{mark}{header}")
    (tmp_path / "log.csv").write_text(
        "\n".join([header, *(line for n in lines[:-3] for line in (n, header))])
    )
    rules = Rules(min_item_support=1)
    info = prepare([tmp_path / "log.csv"], tmp_path / "data", log_format=format_, rules=rules)
    assert info.counts["rejected_repeated_header"] == 142


def test_spaces_around_the_names_in_a_header_are_overlooked(tmp_path: Path) -> None:
    rows = f"a;x;{START};view;1\n"
    (tmp_path / "log.csv").write_text(f" session_id ; item_id;timestamp\t;event_type ; item_id2\n{rows}")
    assert read(tmp_path / "log.csv") == ([("a", "x", START)], [])
    by_event = replace(CSV, event=EVENT, events=("view",))
    assert read(tmp_path / "log.csv", by_event) == ([("a", "x", START)], [])
    (tmp_path / "log.csv").write_text(f"session_id; item_id;timestamp;k;item_id\n{rows}")
    assert read(tmp_path / "log.csv") == ([("a", "1", START)], [])  # which has just that name
    (tmp_path / "log.csv").write_text(f"session_id; item_id;timestamp;k;item_id \n{rows}")
    with pytest.raises(
        PrepareError, match=r"no column 'item_id', but 'session_id', ' item_id'.*; name it with --item-column"
    ):
        read(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text(
        "event_time\t event_type\tproduct_id\tuser_session\n2025-11-24 16:00:00 UTC\tview\tx\ta\n"
    )
    assert detect_format(tmp_path / "log.csv") == "rees46"
    assert read(tmp_path / "log.csv", REES46) == ([("a", "x", START)], [])


# Times


@pytest.mark.parametrize("wrong", [(2100, "after"), (1970, "before")])
def test_one_wrong_clock_is_told_and_left_out_of_the_split(tmp_path: Path, wrong: tuple[int, str]) -> None:
    year, where = wrong
    stray = [("lost", item, (year - 1970) * 365 * DAY + 100 + n) for n, item in enumerate("AB")]
    plain, odd = tmp_path / "plain.csv", tmp_path / "odd.csv"
    plain.write_text("\n".join(lines_of(shop())))
    odd.write_text("\n".join(lines_of([*shop(), *stray])))
    log_format, words = replace(CSV, time_format="seconds"), list[str]()
    expected = prepare([plain], tmp_path / "a", log_format=log_format)
    found = prepare([odd], tmp_path / "b", log_format=log_format, tell=words.append)
    assert found.fingerprint == expected.fingerprint
    assert found.counts["test_sessions"] in (12, 13)
    assert found.counts["rejected_outside_time_range"] == 2
    assert found.counts["read_clicks"] + found.counts["rejected"] == len(shop()) + 2
    [word] = words
    assert word.startswith("2 clicks are left out: ")
    assert where in word
    assert len((tmp_path / "b" / "rejected.csv").read_text().splitlines()) == 3
    everything = Rules(first_time=-1 << 62, end_time=1 << 62)
    assert prepare([odd], tmp_path / "c", log_format=log_format, rules=everything).counts["rejected"] == 0


def test_a_long_pause_in_a_log_is_no_wrong_clock(tmp_path: Path) -> None:
    late = [(f"late {session}", item, time + 90 * DAY) for session, item, time in shop()]
    (tmp_path / "log.csv").write_text("\n".join(lines_of([*shop(), *late])))
    words: list[str] = []
    info = prepare([tmp_path / "log.csv"], tmp_path / "data", log_format=CSV, tell=words.append)
    assert info.counts["rejected"] == 0
    [word] = words
    assert word.startswith("no click for 87 days from 2025-11-26 to 2026-02-22; 50.0% of all are after")


def test_a_time_range_keeps_what_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("\n".join(lines_of(shop())))
    second = 1_000_000
    rules = Rules(first_time=(START + DAY) * second, min_item_support=1)
    info = prepare([tmp_path / "log.csv"], tmp_path / "data", log_format=CSV, rules=rules)
    assert (info.counts["read_clicks"], info.counts["rejected_outside_time_range"]) == (96, 48)


def test_each_file_has_its_own_unit_and_single_times_of_another_are_rejected(tmp_path: Path) -> None:
    units = [1, 10**3, 10**6, 10**9]
    for n, unit in enumerate(units):
        odd = ("odd", "A", START * units[n - 1])
        lines = lines_of([*((f"{s} {unit}", i, t * unit) for s, i, t in shop()), odd])
        (tmp_path / str(n)).write_text("\n".join(lines))
    log = read_log(sql.connect(), [tmp_path / str(n) for n in range(4)], CSV)
    assert clicks_of(log) == [(f"{s} {unit}", i, t) for unit in units for s, i, t in shop()]
    assert rejected_of(log) == [(146, "other_time_unit")] * 4
    (tmp_path / "0").write_text("\n".join(lines_of([("a", "x", START), ("a", "x", START * 1000)])))
    with pytest.raises(PrepareError, match=r"1 like seconds, 1 like milliseconds\): say --time-format"):
        read(tmp_path / "0")


def test_times_of_digits_alone_are_not_taken_for_milliseconds(tmp_path: Path) -> None:
    for times in (["20251124160000", "20251124160001"], ["20251124T160000Z", " 20251124T160001"]):
        lines = [HEADER, *(f"a,x,{time}" for time in times), "a,x,20251324160000"]
        (tmp_path / "log.csv").write_text("\n".join(lines))
        assert read(tmp_path / "log.csv") == (
            [("a", "x", START), ("a", "x", START + 1)],
            [(4, "unparsable_time")],
        )


def test_times_that_are_not_understood_are_shown(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"{HEADER}\na,x,24/11/2025 16:00\n")
    with pytest.raises(PrepareError, match=r"'24/11/2025 16:00' and the others are neither ISO-8601, such"):
        read(tmp_path / "log.csv")


@pytest.mark.parametrize(
    ("times", "pattern"),
    [
        (["24/11/2025 16:00:00", "24/11/2025 16:00:01"], "%d/%m/%Y %H:%M:%S"),
        (["24.11.2025 16:00", " 24.11.2025 16:00 "], "%d.%m.%Y %H:%M"),
        (["24-11-2025T16:00", "24-11-2025T16:00"], "%d-%m-%YT%H:%M"),
        (["24/11/2025", "25/11/2025"], "%d/%m/%Y"),
        (["Nov 24, 2025", "Nov 25, 2025"], "%b %d, %Y"),
        (["11/12/2025 10:13:20 PM", "11/14/2025 1:05:00 AM"], "%m/%d/%Y %I:%M:%S %p"),
        (["November 14, 2025 1:05pm"] * 2, "%B %d, %Y %I:%M%p"),
        (["Mon, 24 Nov 2025 16:00:00 +0000"] * 2, "%a, %d %b %Y %H:%M:%S %z"),
        (["24/Nov/2025:16:00:00 +0000"] * 2, "%d/%b/%Y:%H:%M:%S %z"),
        (["Monday Nov 24 16:00:00 UTC 2025"] * 2, "%A %b %d %H:%M:%S UTC %Y"),
        (["2025/24/11 16:00", "2025/13/11 16:00"], "%Y/%d/%m %H:%M"),
        (["24.11.2025, 100 % sure"] * 2, "%d.%m.%Y, 100 %% sure"),
        (["24.11.25 16:00", "4.12.25 1:05"], "%d.%m.%y %H:%M"),
        (["24-Nov-25", "25-Nov-25"], "%d-%b-%y"),
        (["yesterday", "45985.5"], None),
    ],
)
def test_times_that_people_write_are_read_as_the_refusal_says(
    tmp_path: Path, times: list[str], pattern: str | None
) -> None:
    lines = [HEADER, "a,y,", *(f'a,x,"{time}"' for time in times)]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    with pytest.raises(PrepareError) as refused:
        read(tmp_path / "log.csv")
    assert f"{times[0]!r} and the others" in str(refused.value)
    assert f"say --time-format, such as '{pattern or '%d/%m/%Y %H:%M'}'" in str(refused.value)
    if pattern:
        (tmp_path / "log.csv").write_text("\n".join([*lines, "a,x,31/31/2025"]))
        kept, rejected = read(tmp_path / "log.csv", replace(CSV, time_format=pattern))
        expected = [
            datetime.strptime(time.strip(), pattern).replace(tzinfo=UTC) for time in times
        ]  # as Python does
        assert kept == [("a", "x", round(time.timestamp())) for time in expected]
        assert rejected == [(2, "missing_time"), (5, "unparsable_time")]


def test_a_pattern_may_have_an_offset(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"{HEADER}\na,x,24/11/2025 18:00 +0200\n")
    assert read(tmp_path / "log.csv", replace(CSV, time_format="%d/%m/%Y %H:%M %z"))[0] == [("a", "x", START)]


@pytest.mark.parametrize(
    ("time_format", "why"),
    [("days", "is none of auto, seconds"), ("%d/%q", "Unrecognized format for strftime/strptime: %q")],
)
def test_what_is_no_time_format_is_refused_before_anything_is_read(
    tmp_path: Path, time_format: str, why: str
) -> None:
    (tmp_path / "log.csv").write_bytes(b"\0")
    with pytest.raises(PrepareError, match=f"^--time-format {time_format}: .*{why}"):
        read_any(sql.connect(), [tmp_path / "log.csv"], replace(CSV, time_format=time_format))


# JSON lines and presets


def otto_lines() -> list[str]:
    sessions: dict[str, list[dict[str, object]]] = {}
    for n, (session, item, time) in enumerate(shop()):
        kind = "carts" if n % 4 == 0 else "clicks"
        sessions.setdefault(session, []).append({"aid": ord(item), "ts": time * 1000, "type": kind})
    return [json.dumps({"session": session, "events": events}) for session, events in sessions.items()]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_otto_has_a_session_a_line(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    lines = otto_lines()
    file = tmp_path / "train.jsonl"
    file.write_bytes(
        pack("\n".join([lines[0], '{"session": 5, "eve', "", *lines[1:], '{"session": "x"}', "7"]).encode())
    )
    assert detect_format(file) == "otto"
    expected = [(session, str(ord(item)), time) for session, item, time in shop()]
    bad = [(2, "malformed_row"), (len(lines) + 4, "malformed_row")]
    kept, rejected = read(file, OTTO)
    assert (kept, [found for found in rejected if found[1] == "malformed_row"]) == (expected, bad)
    assert (len(lines) + 3, "no_events") in rejected
    kept, _ = read(file, replace(OTTO, events=("clicks",)))
    assert kept == [click for n, click in enumerate(expected) if n % 4]


def test_json_lines_may_be_flat_and_have_names_within_names(tmp_path: Path) -> None:
    file = tmp_path / "track.json"
    lines = [
        {"anonymousId": session, "event": "Product Viewed", "timestamp": time, "properties": {"sku": item}}
        for session, item, time in shop()
    ]
    lines[9] |= {"event": "Order Completed"}
    lines[10] |= {"properties": {"sku": None}}
    file.write_text("\n".join(map(json.dumps, lines)))
    track = LogFormat("anonymousId", "properties.sku", "timestamp", event="event", events=("Product Viewed",))
    assert detect_format(file) == "csv"
    assert read(file, track) == (
        [click for n, click in enumerate(shop()) if n not in (9, 10)],
        [(11, "missing_item")],
    )
    with pytest.raises(
        PrepareError, match=r"no line has 'properties\.item'; the first has 'anonymousId', 'ev"
    ):
        read(file, replace(track, item="properties.item"))


def test_rees46(tmp_path: Path) -> None:
    header = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
    lines = [
        f"2025-11-24 16:00:{n:02} UTC,view,{item},7,,acme,9.9,5,{session}"
        for n, (session, item, _) in enumerate(shop()[:48])
    ]
    (tmp_path / "2025-Nov.csv").write_text("\n".join([header, *lines]))
    assert detect_format(tmp_path / "2025-Nov.csv") == "rees46"
    kept, rejected = read(tmp_path / "2025-Nov.csv", REES46)
    assert (len(kept), rejected) == (48, [])
    assert kept[1] == ("s0-0", shop()[1][1], 1_764_000_001)


# Any file


ids = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=8
)
tables = st.lists(st.tuples(ids, ids, st.integers(10**9, 2 * 10**9)), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    table=tables,
    separator=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    pack=st.sampled_from([bytes, *PACKERS[:3]]),
    order=st.permutations(["session_id", "item_id", "timestamp", "title"]),
    title=st.text(st.sampled_from("x ,;\t|\n\"'"), max_size=4),
    unit=st.sampled_from([1, 10**3, 10**6]),
    blank=st.integers(0, 3),
)
def test_a_table_comes_back_row_for_row_in_whatever_dialect(
    table: list[Click],
    separator: str,
    quoting: int,
    end: str,
    encoding: str,
    pack: Callable[[bytes], bytes],
    order: list[str],
    title: str,
    unit: int,
    blank: int,
) -> None:
    title = title if title.strip() else ""
    if (
        end == "\r"
    ):  # of which csv takes a line feed within a field for no end of a line, and does not quote it
        title = title.replace("\n", "")
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerow(order)
    for session, item, time in table:
        fields = {"session_id": session, "item_id": item, "timestamp": time * unit, "title": title}
        writer.writerow([fields[name] for name in order])
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "log"
        file.write_bytes(pack((text.getvalue() + end * blank).encode(encoding)))
        assert read(file, replace(CSV, nothing=())) == (table, [])
