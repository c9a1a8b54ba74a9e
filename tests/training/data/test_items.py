"""Files of items: what each cell means, what is wrong with a row, and the same again after writing."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue.attributes import InvalidItem, Item, Schema, Values
from training.data.items import BadRow, ItemsFileError, all_items, read_items, write_items

SCHEMA = Schema({"colour": "string", "sizes": "numbers", "labels": "strings", "gone_at": "time"})


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def written(file: Path, text: str | bytes) -> Path:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def read(file: Path, **options: Any) -> list[Item | BadRow]:
    return list(read_items(file, SCHEMA, **options))


def items_of(rows: list[Item | BadRow]) -> dict[str, Values]:
    assert all(isinstance(row, Item) for row in rows), rows
    return dict(row for row in rows if isinstance(row, Item))


def bad(rows: list[Item | BadRow]) -> list[BadRow]:
    return [row for row in rows if isinstance(row, BadRow)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_is_read_by_the_kinds_of_its_columns(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ["item_id", "title", "price", "available", "categories", "sizes", "published_at", "colour"],
        ["001", '"Tent, ""red""; large"', " 19.90 ", "Yes", "Tents | Sale|", "1|2.5", "2026-01-01", ""],
        ["a/b", "", "", "0", "", "", "2026-01-01T01:00:00+01:00", "red"],
        ["c", "", "1e2", "", "", "", "1767225600", ""],
    ]
    text = "\ufeff" + "\r\n".join(delimiter.join(row) for row in rows) + "\r\n\r\n"
    file = written(tmp_path / ("items.tsv" if delimiter == "\t" else "items.csv"), text)
    assert items_of(read(file)) == {
        "001": {
            "title": 'Tent, "red"; large',
            "price": 19.9,
            "available": True,
            "categories": ["Tents", "Sale"],
            "sizes": [1.0, 2.5],
            "published_at": 1767225600.0,
        },
        "a/b": {"available": False, "published_at": 1767225600.0, "colour": "red"},
        "c": {"price": 100.0, "published_at": 1767225600.0},
    }


@pytest.mark.parametrize(
    ("text", "bad_line"),
    [
        ("\ufeff\n\r\nitem_id,title,tags\na,Tent,x|y\n\n,,\n", 6),
        ("sep=^\nitem_id^title^tags\na^Tent^x|y\n^^\n", 4),
        ('"sep=;"\r\nitem_id;title;tags\r\na;Tent;x|y\r\n;;\r\n', 4),
        ('item_id|title|tags\na|Tent|"x|y"\n||\n', 3),
        ('"item_id";"title";"tags, for, search, and, more"\na;Tent;\n;;\n', 3),
        (" item_id , title, tags\na, Tent, x|y\n, , \n", 3),
        ('item_id, "title", tags\na, "Tent", x|y\n, , \n', 3),
        ("\ufeff# Products\n#\n\nitem_id,title,tags\na,Tent,x|y\n,,\n", 6),
        ("# Products\nsep=^\n#item_id^title\na^Tent\n^\n", 5),
        ("#,item_id,title\n1,a,Tent\n2,,\n", 3),
        ('item_id;"notes,\nfor us";title\na;;Tent\n;;\n', 4),
    ],
)
def test_a_header_is_found_as_in_a_log(tmp_path: Path, text: str, bad_line: int) -> None:
    found, refused = read(written(tmp_path / "items.csv", text))
    assert isinstance(found, Item)
    assert (found.item_id, found.values["title"]) == ("a", "Tent")
    assert isinstance(refused, BadRow)
    assert refused.line == bad_line


def test_columns_that_are_not_read_may_be_called_alike_or_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    file = written(tmp_path / "items.csv", "note,item_id,note,title,,\n1,a,2,Tent,,\n")
    assert read(file, on_unknown=told.extend) == [Item("a", {"title": "Tent"})]
    assert told == ["note"]


def test_each_bad_row_of_a_csv_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    lines = [
        b"item_id,title,price,available,tags,published_at",
        b'good,"two\nlines in one cell",1,true,,',  # a control character, but rows after it keep their lines
        b"p,,cheap,,,",
        b"b,,,maybe,,",
        b",title,,,,",
        b"t,,,,,yesterday",
        b"few,1",
        b"many,,,,,,,",
        b"\xff,,,,,",
        b"w,,1_000,,,",
        b"n,,nan,,,",
        b"%s,,,,," % (b"x" * 257),
        b"last,,2,,,",
    ]
    rows = read(written(tmp_path / "items.csv", b"\n".join(lines)))
    assert [(row.line, row.item_id, row.reason.split(":")[0]) for row in bad(rows)] == [
        (2, "good", "title"),
        (4, "p", "price"),
        (5, "b", "available"),
        (6, None, "item_id"),
        (7, "t", "published_at"),
        (8, None, "has 2 fields"),
        (9, None, "has 8 fields"),
        (10, None, "is no text in UTF-8, or in what import is told by --encoding, such as windows-1252"),
        (11, "w", "price"),
        (12, "n", "price"),
        (13, None, "item_id"),
    ]
    assert [row for row in rows if isinstance(row, Item)] == [Item("last", {"price": 2.0})]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress), (".zst", zstd)],
)
def test_text_is_read_however_it_is_packed_and_encoded(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes], encoding: str
) -> None:
    texts = {
        "csv": 'item_id;title\r\na;"Zelt ""Möwe""\u201d"\r\nb;Kanu\r\n',
        "tsv": 'item_id\ttitle\ra\t"Zelt ""Möwe""\u201d"\rb\tKanu',
        "jsonl": '{"item_id": "a", "title": "Zelt \\"Möwe\\"\u201d"}\n{"item_id": "b", "title": "Kanu"}',
    }
    for kind, text in texts.items():
        file = written(tmp_path / f"items.{kind}{suffix}", pack(text.encode(encoding)))
        assert read(file) == [Item("a", {"title": 'Zelt "Möwe"\u201d'}), Item("b", {"title": "Kanu"})]


def test_another_encoding_is_said(tmp_path: Path) -> None:
    file = written(tmp_path / "items.csv", "item_id,title\na,Möwe\nb,Kanu\n".encode("windows-1252"))
    refused, read_anyway = read(file)
    assert isinstance(refused, BadRow)
    assert (refused.line, "--encoding, such as windows-1252" in refused.reason) == (2, True)
    assert read_anyway == Item("b", {"title": "Kanu"})
    assert read(file, encoding="windows-1252") == [Item("a", {"title": "Möwe"}), read_anyway]
    lines = written(tmp_path / "items.jsonl", b'{"item_id": "\xfc"}\n{"item_id": "b"}\n')
    assert [type(row) for row in read(lines)] == [BadRow, Item]
    assert read(lines, encoding="latin-1")[0] == Item("ü", {})
    with pytest.raises(ItemsFileError, match="there is no such encoding"):
        read(file, encoding="windows-9999")
    assert read(file, encoding="ascii") == [refused, read_anyway]
    file.write_bytes("item_id,title\na,Möwe\n".encode("utf-16-le")[:-3])
    with pytest.raises(ItemsFileError, match=r"items\.csv: 'utf-16-le' codec can't decode"):
        read(file)


def test_a_packed_file_that_is_cut_off_is_told(tmp_path: Path) -> None:
    """After the rows that could be read: import stores them, and goes on there once the file is whole."""
    text = "item_id,title\n" + "".join(f"item-{n},{n * n}\n" for n in range(100_000))
    packed = gzip.compress(text.encode())
    rows = read_items(written(tmp_path / "items.csv.gz", packed[: len(packed) // 2]), SCHEMA)
    read_before: list[Item | BadRow] = []
    with pytest.raises(ItemsFileError, match=r"items\.csv\.gz: the gzip is damaged or cut off"):
        read_before.extend(rows)
    assert read_before[0] == Item("item-0", {"title": "0"})
    for name, said in {"items.csv": "is a zip archive: unpack", "items.tsv.gz": "is a zip archive"}.items():
        with pytest.raises(ItemsFileError, match=said):
            read(written(tmp_path / name, b"PK\x03\x04rest"))


def test_a_quote_that_is_never_closed_is_one_bad_row(tmp_path: Path) -> None:
    text = 'item_id,title\na,ok\nb,"open\n' + "c,ok\n" * 40_000
    rows = read(written(tmp_path / "items.csv", text))
    assert rows[0] == Item("a", {"title": "ok"})
    assert bad(rows)[0].line == 3


def test_columns_are_renamed_and_unknown_ones_are_told(tmp_path: Path) -> None:
    file = written(tmp_path / "items.csv", "sku,name,title,weight\na,Tent,other,3\n")
    told: list[list[str]] = []
    renamed = {"item_id": "sku", "title": "name"}
    assert read(file, renamed=renamed, on_unknown=lambda names: told.append(list(names))) == [
        Item("a", {"title": "Tent"})
    ]
    assert told == [["title", "weight"]]
    lines = written(
        tmp_path / "items.jsonl", '{"sku": "a", "name": "Tent", "title": "other", "weight": 3}\n' * 2
    )
    told.clear()
    assert (
        read(lines, renamed=renamed, on_unknown=lambda names: told.append(list(names)))
        == [Item("a", {"title": "Tent"})] * 2
    )
    assert told == [["title", "weight"]]


@pytest.mark.parametrize(
    ("name", "text", "renamed", "said"),
    [
        ("items.csv", "", {}, "is empty"),
        ("items.csv", "sku,title\n", {}, "no column is called item_id, but 'sku', 'title': name it with"),
        ("items.csv", "\n\n", {}, "is empty"),
        ("items.csv", "sep=;\n", {}, "is empty"),
        ("items.csv", "item_id,title,title\n", {}, "two columns are called 'title'"),
        (
            "items.csv",
            "item_id\n",
            {"title": "name"},
            "no column is called 'name', which was to be title, but",
        ),
        ("items.csv", "item_id\n", {"colours": "item_id"}, "no such attribute"),
        ("items.parquet", "no parquet", {}, "items.parquet"),
        ("items.txt", "item_id\n", {}, "the name must end in"),
        ("items.txt.gz", "item_id\n", {}, r"the name must end in .*, packed or not \(\.gz"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_told(
    tmp_path: Path, name: str, text: str, renamed: Mapping[str, str], said: str
) -> None:
    with pytest.raises(ItemsFileError, match=said):
        read(written(tmp_path / name, text), renamed=renamed)
    with pytest.raises(ItemsFileError):
        read(tmp_path / f"missing-{name}")


def test_bad_lines_of_json_are_named(tmp_path: Path) -> None:
    text = '{"item_id": "a", "price": 1}\n\n{"item_id": \n[]\n{"item_id": "b", "price": "1"}\n{"price": 1}\n'
    rows = read(written(tmp_path / "items.jsonl", text))
    assert rows[0] == Item("a", {"price": 1.0})
    assert [(row.line, row.item_id) for row in bad(rows)] == [(3, None), (4, None), (5, "b"), (6, None)]


def test_parquet_has_types_of_its_own(tmp_path: Path) -> None:
    columns = {
        "item_id": [1, 2, 3],
        "price": [Decimal("19.90"), None, Decimal("3.00")],
        "brand": [7, None, 8],
        "sizes": [[1, 2], [], None],
        "labels": ["x|y", None, ""],
        "published_at": [datetime(2026, 1, 1), None, datetime(2026, 1, 2)],
        "gone_at": [date(2026, 1, 1), None, None],
        "available": [True, False, None],
        "colour": ["red", "a\nb", None],
    }
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    rows = read(tmp_path / "items.parquet")
    assert rows[0] == Item(
        "1",
        {
            "price": 19.9,
            "brand": "7",
            "sizes": [1.0, 2.0],
            "labels": ["x", "y"],
            "published_at": datetime(2026, 1, 1, tzinfo=UTC).timestamp(),
            "gone_at": datetime(2026, 1, 1, tzinfo=UTC).timestamp(),
            "available": True,
            "colour": "red",
        },
    )
    assert [(row.line, row.item_id) for row in bad(rows)] == [(2, "2")]
    pq.write_table(pa.table({"item_id": ["a"], "price": [math.nan]}), tmp_path / "nan.parquet")
    assert read(tmp_path / "nan.parquet") == [Item("a", {})], "as pandas writes what is absent"


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=6)
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "title": TEXT,
        "colour": TEXT,
        "price": st.floats(-1e300, 1e300),
        "sizes": st.lists(st.floats(-1e300, 1e300), max_size=3),
        "labels": st.lists(st.text("ab c;,\"'", min_size=1, max_size=4), max_size=3),
        "available": st.booleans(),
        "published_at": st.floats(-1e9, 1e10),
    },
)


def test_a_number_is_an_id_as_in_a_log(tmp_path: Path) -> None:
    numbers = [
        pa.array([17.0, 17.5, None, 1e17, -2.0, math.nan]),
        pa.array([Decimal("17.00"), Decimal("1.50")]),
        pa.array([True]),
    ]
    found = []
    for column in numbers:
        pq.write_table(pa.table({"item_id": column}), tmp_path / "items.parquet")
        found += read(tmp_path / "items.parquet")
    ids = [row.item_id for row in found if isinstance(row, Item)]
    assert ids == ["17", "17.5", "-2", "17", "1.50"]
    assert [row.line for row in bad(found)] == [3, 4, 6, 1]
    assert "1e+17 is a float" in bad(found)[1].reason


def test_an_id_that_a_spreadsheet_has_rounded_is_none(tmp_path: Path) -> None:
    file = written(tmp_path / "items.csv", 'item_id,title\n1.23457E+12,a\nE+1,b\n"1,2E+12",c\n12E10,d\n')
    rows = read(file)
    assert [row.item_id for row in rows if isinstance(row, Item)] == ["E+1", "12E10"]
    assert [(row.line, row.item_id) for row in bad(rows)] == [(2, "1.23457E+12"), (4, "1,2E+12")]
    assert bad(rows)[0].reason == "item_id: 1.23457E+12 is a number that a spreadsheet has rounded"


@pytest.mark.parametrize("name", ["items.csv", "items.tsv", "items.jsonl", "items.parquet"])
@given(items=st.dictionaries(TEXT.filter(bool), ATTRIBUTES, max_size=4))
def test_what_is_written_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, name: str, items: dict[str, Any]
) -> None:
    """Or is refused, where the text of a CSV cannot say it."""
    file = tmp_path_factory.mktemp("round") / name
    checked = {item_id: SCHEMA.checked(values, "item") for item_id, values in items.items()}
    try:
        assert write_items(file, checked.items(), SCHEMA) == len(checked)
    except ItemsFileError:
        assert name.endswith("sv")
        assert not file.exists()
        labels = [label for values in checked.values() for label in values.get("labels", [])]  # type: ignore[union-attr]
        assert any(str(label) != str(label).strip() for label in labels)
    else:
        assert items_of(read(file)) == checked


def test_a_list_that_a_csv_cannot_say_is_told(tmp_path: Path) -> None:
    items: list[tuple[str, Values]] = [("a", {"labels": ["x|y"]})]
    with pytest.raises(ItemsFileError, match="item a: labels would be another one"):
        write_items(tmp_path / "items.csv", items, SCHEMA)
    assert list(tmp_path.iterdir()) == []
    assert write_items(tmp_path / "items.csv", items, SCHEMA, separator=";") == 1
    assert items_of(read(tmp_path / "items.csv", separator=";")) == dict(items)


def test_a_schema_checks_what_a_file_has() -> None:
    assert SCHEMA.item({"item_id": "a", "price": 1}, "item") == Item("a", {"price": 1.0})
    with pytest.raises(InvalidItem) as caught:
        SCHEMA.item({"item_id": "a", "price": "1"}, "item")
    assert (caught.value.field, caught.value.item_id) == ("item.price", "a")


def test_all_items_are_those_of_the_last_rows_and_none_is_bad(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"item_id": "a", "price": 3}\n{"item_id": "b"}\n{"item_id": "a", "price": 4}\n')
    assert all_items(file, Schema()) == {"a": {"price": 4.0}, "b": {}}
    file.write_text('{"item_id": "a"}\n{"item_id": "b", "price": "cheap"}\n')
    with pytest.raises(ItemsFileError, match=r"items\.jsonl:2: .*price"):
        all_items(file, Schema())
