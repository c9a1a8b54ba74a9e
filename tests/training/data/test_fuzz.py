"""Damaged files of every kind: each line is a click, is rejected, or the file is refused by name."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tests.training.data.test_lines import CSV, START, lines_of, otto_lines, shop
from training.data.formats import OTTO, LogFormat, PrepareError, detect_format, read_any
from training.data.reading import sql

CSV_LINES = lines_of([*shop(), ("\u00e9", '"q"', START)])
JSON_LINES = [
    json.dumps({"session_id": session, "item_id": item, "timestamp": time}) for session, item, time in shop()
]


def parquet_bytes() -> bytes:
    sessions, items, times = zip(*shop(), strict=True)
    sink = pa.BufferOutputStream()
    table = pa.table({"session_id": sessions, "item_id": items, "timestamp": times})
    parquet.write_table(table, sink, row_group_size=50)
    return bytes(sink.getvalue())


def unpacked(content: bytes) -> bytes:
    return content


KINDS: dict[str, tuple[bytes, Callable[[bytes], bytes] | None]] = {
    "csv": ("\n".join(CSV_LINES).encode(), unpacked),
    "crlf": ("\r\n".join([*CSV_LINES, "", ""]).encode("utf-8-sig"), unpacked),
    "tsv": ("\n".join(CSV_LINES).replace(",", "\t").encode(), unpacked),
    "json": ("\n".join(JSON_LINES).encode(), unpacked),
    "otto": ("\n".join(otto_lines()).encode(), unpacked),
    "utf-16": ("\n".join(CSV_LINES).encode("utf-16"), None),
    "gzip": (gzip.compress("\n".join(CSV_LINES).encode(), mtime=0), None),
    "zstd": (pa.Codec("zstd").compress("\n".join(CSV_LINES).encode(), asbytes=True), None),
    "parquet": (parquet_bytes(), None),
}


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    con = sql.connect()
    yield con
    con.close()


parts = st.one_of(
    st.sampled_from([b'"', b"\r", b"\n", b"\0", b",", b"\xff", b'"\n"', b"\n\n", b"{", b"[]", b"1e400"]),
    st.binary(max_size=6),
)
damages = st.lists(
    st.tuples(st.sampled_from(["cut", "flip", "glue"]), st.floats(0, 1), parts), min_size=1, max_size=5
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(damage=damages)
@example(damage=[("glue", 0.0, b"{")])  # which makes JSON of all
@example(damage=[("cut", 1e-4, b""), ("glue", 0.0, b"\xef\xbb\xbf")])  # a mark of the encoding alone
def test_no_damage_loses_a_line_in_silence(
    con: duckdb.DuckDBPyConnection, kind: str, damage: list[tuple[str, float, bytes]]
) -> None:
    content, text_of = KINDS[kind]
    for how, share, extra in damage:
        place = int(share * len(content))
        if how == "cut":
            content = content[:place]
        elif how == "flip":
            content = content[:place] + extra + content[place + len(extra) :]
        else:
            content = content[:place] + extra + content[place // 2 :]
    for (table,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall():
        con.execute(f"DROP TABLE {table}")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "log"
        file.write_bytes(content)
        refusal = None
        try:
            account(con, file, text_of(content) if text_of else None)
        except PrepareError as error:
            refusal = str(error)
        assert refusal is None or refusal.startswith(str(file))


def account(con: duckdb.DuckDBPyConnection, file: Path, text: bytes | None) -> None:
    """Check that the lines add up, to those that are in `text`, if it is known."""
    formats: dict[str, LogFormat] = {"otto": OTTO}
    log = read_any(con, [file], formats.get(detect_format(file), CSV))
    [source] = log.sources
    rows = con.execute(f"SELECT row, reason FROM {log.rows}").fetchall()
    malformed = con.execute("SELECT reason FROM malformed").fetchall()
    n_rejected = sql.value(con, f"SELECT count(*) FROM {log.rejected}")
    reasons = [*(reason for _, reason in rows), *(reason for (reason,) in malformed)]
    assert n_rejected == sum(reason is not None for reason in reasons)
    n_read = len({row for row, _ in rows}) + len(malformed)
    lines = None
    if text is None and source.compression is None and source.encoding in ("utf-8", "utf-8-sig"):
        text = file.read_bytes()  # the damage made text of what was packed
    if text is not None:
        lines = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        lines = lines if lines[-1] else lines[:-1]
        assert source.lines == len(lines)
    if log.rows_are_lines:
        assert n_read == sum(map(bool, lines or ()))
    elif source.format == "parquet":
        assert n_read == source.lines
    else:
        before = next(n for n, line in enumerate(lines, 1) if line) if lines else 1
        assert n_read == source.lines - before
