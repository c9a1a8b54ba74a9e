"""What `prepare` says it understood of the files: in dataset.json, and in the first lines that it prints."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from training.data.dataset import SourceFile
from training.data.formats import LogFormat
from training.data.prepare import Rules, prepare
from training.data.source import told_sources

CSV = LogFormat("session_id", "item_id", "timestamp", event="kind", events=("view",))
START = 1_764_000_000


def rows(part: int, n: int = 40) -> list[tuple[str, int, int, str]]:
    return [(f"s{part}-{i // 4}", i % 5, START + part * 40_000 + i, "view") for i in range(n)]


def test_each_file_is_described_with_what_became_of_its_lines(tmp_path: Path) -> None:
    """Their units differ: each file has its own."""
    log = tmp_path / "log"
    log.mkdir()
    lines = ["\ufeffsession_id;item_id;timestamp;kind"]
    lines += [";".join(map(str, row)) for row in rows(0)]
    lines[5:5] = ["", "s;7", "s0-1;NA;1764000001;view", "s0-1;3;1764000001;cart"]
    (log / "a").write_bytes(gzip.compress("\r\n".join(lines).encode()))
    sessions, items, times, kinds = zip(*rows(1), strict=True)
    columns = {
        "session_id": sessions,
        "item_id": items,
        "timestamp": [1_000 * time for time in times],
        "kind": kinds,
    }
    parquet.write_table(pa.table(columns), log / "b")
    shown: list[SourceFile] = []
    info = prepare(
        [log],
        tmp_path / "data",
        log_format=CSV,
        rules=Rules(min_item_support=1, test_days=0.1),
        max_rejected=0.1,
        show=shown.extend,
    )
    names = {"session": "session_id", "item": "item_id", "time": "timestamp", "event": "kind"}
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["source"] == [
        {
            "path": str(log / "a"),
            "format": "csv",
            "compression": "gzip",
            "encoding": "utf-8-sig",
            "separator": ";",
            "columns": names,
            "time_unit": "seconds",
            "id_types": {"session": "text", "item": "integer"},
            "lines": 45,
            "kept": 40,
            "rejected": {"malformed_row": 1, "missing_item": 1, "other_event": 1},
            "first_time": "2025-11-24T16:00:00Z",
            "last_time": "2025-11-24T16:00:39Z",
            "sample": "s0-0;0;1764000000;view",
        },
        {
            "path": str(log / "b"),
            "format": "parquet",
            "compression": None,
            "encoding": None,
            "separator": None,
            "columns": names,
            "time_unit": "milliseconds",
            "id_types": {"session": "string", "item": "int64"},
            "lines": 40,
            "kept": 40,
            "rejected": {},
            "first_time": "2025-11-25T03:06:40Z",
            "last_time": "2025-11-25T03:07:19Z",
            "sample": "session_id='s1-0', item_id=0, timestamp=1764040000000, kind='view'",
        },
    ]
    assert tuple(shown) == info.source


def test_files_that_are_alike_are_told_of_together(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    for part in range(20):
        lines = ["\t".join(("session_id", "item_id", "timestamp", "kind"))]
        lines += ["\t".join(map(str, row)) for row in rows(part)]
        (log / f"part-{part:02}").write_text("\n".join([*lines, *["broken"] * (part == 7)]))
    shown: list[SourceFile] = []
    prepare([log], tmp_path / "data", log_format=CSV, rules=Rules(min_item_support=1), show=shown.extend)
    assert len(shown) == 20
    assert told_sources(shown) == [
        f"20 files alike, {log / 'part-00'} to {log / 'part-19'}",
        "  format    csv, utf-8, separated by tab",
        "  columns   session = session_id (text), item = item_id (integer)",
        "            time = timestamp (seconds), event = kind",
        "  lines     821 in all, 800 clicks kept, 1 rejected",
        "  rejected  malformed row 1",
        "  times     2025-11-24T16:00:00Z to 2025-12-03T11:07:19Z",
        "  sample    s0-0  0  1764000000  view",
    ]
