"""What a worker knows of items: a row an item, a column an attribute, changed in place.

Row 0 is an item that the catalogue does not know: every attribute of it is absent. A deleted item's row is
emptied, and given to the next new item.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from operator import ge, gt, le, lt
from typing import Any, Literal, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Raw

from service.catalogue.attributes import Kind, Value, Values

FIRST_ROWS = 1024
GROWTH = 1.5  # a column that is full is copied into one so much larger
COMPARED_ONE_BY_ONE = 8  # values that are asked for; of more, numpy makes a table
MAX_FIELD_SETS = 4  # of which answers are kept ready
MAX_READY = 32_768  # items, of each of them: about 8 MB

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Where = slice | Ints  # of which rows
Comparison = Literal["lt", "lte", "gt", "gte"]

Cell = TypeVar("Cell", bound=np.generic)

COMPARE = {"lt": lt, "lte": le, "gt": gt, "gte": ge}

_encode = msgspec.json.Encoder().encode


class Column(Protocol):
    """One attribute of all items."""

    def grow(self, rows: int) -> None:
        """Have room for so many rows; the new ones are absent."""
        ...

    def put(self, rows: Ints, values: Sequence[Value | None]) -> None:
        """Write one value into each of some distinct rows; None is absent."""
        ...

    def shown(self, row: int) -> object:
        """One item's value as answers show it."""
        ...


class Texts:
    """Of kind text: only shown."""

    def __init__(self) -> None:
        self._cells: list[str | None] = []

    def grow(self, rows: int) -> None:
        self._cells.extend(repeat(None, rows - len(self._cells)))

    def put(self, rows: Ints, values: Sequence[Value | None]) -> None:
        for row, value in zip(rows.tolist(), values, strict=True):
            self._cells[row] = value  # type: ignore[assignment]  # the schema has checked it

    def shown(self, row: int) -> object:
        return self._cells[row]


class Numbers:
    """Of kind number, time (epoch seconds) and bool (1 and 0): NaN is absent."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self.cells = np.empty(0)

    def grow(self, rows: int) -> None:
        self.cells = _grown(self.cells, rows, np.nan)

    def put(self, rows: Ints, values: Sequence[Value | None]) -> None:
        self.cells[rows] = np.array(values, dtype=np.float64)  # of None it makes NaN

    def shown(self, row: int) -> object:
        value: float = self.cells.item(row)
        if value != value:
            return None
        if self._kind == "bool":
            return value == 1
        return iso_time(value) if self._kind == "time" else value

    def present(self, where: Where) -> Mask:
        """Which items have it; so it is for the other columns, too."""
        return ~np.isnan(self.cells[where])

    def among(self, values: Sequence[str | float], where: Where) -> Mask:
        """Which items have one of these values, or a list that holds one; so it is for the others, too."""
        return _matches(self.cells[where], np.array(values, dtype=np.float64))

    def compared(self, operator: Comparison, value: float, where: Where) -> Mask:
        """Which items have a number that compares so with `value`."""
        found: Mask = COMPARE[operator](self.cells[where], value)
        return found


class Vocabulary:
    """Strings by code, from 1 on: 0 is none."""

    def __init__(self) -> None:
        self.code_of: dict[str, int] = {}
        self.strings: list[str | None] = [None]

    def code(self, string: str) -> int:
        """A string's code, a new one if need be."""
        code = self.code_of.setdefault(string, len(self.strings))
        if code == len(self.strings):
            self.strings.append(string)
        return code

    def codes(self, strings: Sequence[str | float]) -> npt.NDArray[np.int32]:
        """The codes of those of `strings` that there are."""
        return np.array([self.code_of[each] for each in strings if each in self.code_of], dtype=np.int32)


class Strings:
    """Of kind string."""

    def __init__(self) -> None:
        self._vocabulary = Vocabulary()
        self._cells = np.empty(0, dtype=np.int32)

    def grow(self, rows: int) -> None:
        self._cells = _grown(self._cells, rows, 0)

    def put(self, rows: Ints, values: Sequence[Value | None]) -> None:
        code = self._vocabulary.code
        self._cells[rows] = [0 if value is None else code(value) for value in values]  # type: ignore[arg-type]

    def shown(self, row: int) -> object:
        return self._vocabulary.strings[self._cells.item(row)]

    def present(self, where: Where) -> Mask:
        found: Mask = self._cells[where] > 0
        return found

    def among(self, values: Sequence[str | float], where: Where) -> Mask:
        return _matches(self._cells[where], self._vocabulary.codes(values))

    def held(self, rows: Ints) -> list[list[int]]:
        """Which values each item has, by code, and 0 for none; so it is for lists of strings, too."""
        held: list[list[int]] = self._cells[rows][:, None].tolist()
        return held


class Lists:
    """Of kind strings and numbers: as many planes as the longest list has values, NaN or 0 behind its end."""

    def __init__(self, kind: Kind) -> None:
        self._vocabulary = Vocabulary() if kind == "strings" else None
        self._planes: list[npt.NDArray[Any]] = []
        self._lengths = np.empty(0, dtype=np.int8)  # -1 is absent: an empty list is a value

    def grow(self, rows: int) -> None:
        self._lengths = _grown(self._lengths, rows, -1)
        self._planes = [_grown(plane, rows, self._padding) for plane in self._planes]

    def put(self, rows: Ints, values: Sequence[Value | None]) -> None:
        lists: list[list[str | float]] = [value or [] for value in values]  # type: ignore[misc]
        self._lengths[rows] = [-1 if value is None else len(value) for value in values]  # type: ignore[arg-type]
        for _ in range(len(self._planes), max(map(len, lists), default=0)):
            dtype = np.int32 if self._vocabulary else np.float64
            self._planes.append(np.full(len(self._lengths), self._padding, dtype=dtype))
        code = self._vocabulary.code if self._vocabulary else float
        for place, plane in enumerate(self._planes):
            plane[rows] = [
                code(each[place]) if place < len(each) else self._padding  # type: ignore[arg-type]
                for each in lists
            ]

    def shown(self, row: int) -> object:
        length = self._lengths.item(row)
        if length < 0:
            return None
        cells = [plane.item(row) for plane in self._planes[:length]]
        return [self._vocabulary.strings[int(code)] for code in cells] if self._vocabulary else cells

    def present(self, where: Where) -> Mask:
        found: Mask = self._lengths[where] >= 0
        return found

    def among(self, values: Sequence[str | float], where: Where) -> Mask:
        wanted = self._vocabulary.codes(values) if self._vocabulary else np.array(values, dtype=np.float64)
        found = np.zeros(len(self._lengths[where]), dtype=bool)
        for plane in self._planes:
            found |= _matches(plane[where], wanted)
        return found

    def held(self, rows: Ints) -> list[list[int]]:
        if not self._planes:
            return [[]] * len(rows)
        held: list[list[int]] = np.stack([plane[rows] for plane in self._planes], 1).tolist()
        return held

    @property
    def _padding(self) -> float:
        return 0 if self._vocabulary else np.nan


Searchable = Numbers | Strings | Lists  # what rules can ask for


def column_of(kind: Kind) -> Column:
    """An empty column."""
    if kind == "text":
        return Texts()
    if kind == "string":
        return Strings()
    return Lists(kind) if kind in ("strings", "numbers") else Numbers(kind)


class Columns:
    """All columns; `row_of` tells where an item stands, and `version` counts the changes."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self.kinds = kinds
        self.clear()

    def clear(self) -> None:
        """Know nothing."""
        self.version = 0
        self.row_of: dict[str, int] = {}
        self.n_rows = 1  # of which some may be free
        self._room = 0
        self._free: list[int] = []
        self._columns = {name: column_of(kind) for name, kind in self.kinds.items()}
        self._ready: dict[tuple[str, ...], dict[str, Raw]] = {}
        self._make_room(FIRST_ROWS)

    def __getitem__(self, attribute: str) -> Column:
        return self._columns[attribute]

    def __len__(self) -> int:
        return len(self.row_of)

    @property
    def all_rows(self) -> slice:
        """Every row there is, the empty ones and row 0 among them."""
        return slice(0, self.n_rows)

    def apply(self, items: Sequence[tuple[str, Values | None]]) -> Ints:
        """Take up what items are now, None for those that are gone; the rows that changed, in order."""
        now = dict(items)  # of two changes to one item, the later one
        gone = [item_id for item_id, values in now.items() if values is None and item_id in self.row_of]
        rows = [self.row_of.pop(item_id) for item_id in gone]
        self._free += rows
        put = {item_id: values for item_id, values in now.items() if values is not None}
        rows += [self._row(item_id) for item_id in put]
        # The last write into a row counts, and rows that were emptied here may already be taken again.
        written: dict[int, Values] = dict(zip(rows, [*repeat({}, len(gone)), *put.values()], strict=True))
        changed, all_values = np.array(list(written), dtype=np.int64), list(written.values())
        if len(changed):
            self._make_room(self.n_rows)
            for name, column in self._columns.items():
                column.put(changed, [values.get(name) for values in all_values])
            for ready in self._ready.values():
                for item_id in now:
                    ready.pop(item_id, None)
        self.version += 1
        return np.sort(changed)

    def rows(self, item_ids: Sequence[str]) -> list[int]:
        """The row of each item; 0 for those that the catalogue does not know."""
        row_of = self.row_of.get
        return [row_of(item_id, 0) for item_id in item_ids]

    def held(self, attribute: str, rows: Ints) -> Sequence[Collection[int]]:
        """Which values of an attribute of strings each row has: equal ones have one code, 0 is none."""
        column = self._columns[attribute]
        assert isinstance(column, Strings | Lists), "a placement is checked when it is prepared"
        return column.held(rows)

    def values(self, item_ids: Sequence[str], fields: tuple[str, ...]) -> list[Raw]:
        """For each item a JSON object of these fields, null for what is absent."""
        ready = self._ready.get(fields)
        if ready is None:
            if len(self._ready) >= MAX_FIELD_SETS:
                del self._ready[next(iter(self._ready))]
            ready = self._ready[fields] = {}
        try:
            return [ready[item_id] for item_id in item_ids]
        except KeyError:
            return [ready.get(item_id) or self._make_ready(ready, item_id, fields) for item_id in item_ids]

    def _make_ready(self, ready: dict[str, Raw], item_id: str, fields: tuple[str, ...]) -> Raw:
        if len(ready) >= MAX_READY:
            del ready[next(iter(ready))]
        row = self.row_of.get(item_id, 0)
        made = ready[item_id] = Raw(_encode({name: self._columns[name].shown(row) for name in fields}))
        return made

    def _row(self, item_id: str) -> int:
        row = self.row_of.get(item_id)
        if row is None:
            if self._free:
                row = self._free.pop()
            else:
                row = self.n_rows
                self.n_rows += 1
            self.row_of[item_id] = row
        return row

    def _make_room(self, rows: int) -> None:
        if rows > self._room:
            self._room = max(rows, int(self._room * GROWTH))
            for column in self._columns.values():
                column.grow(self._room)


def iso_time(epoch_seconds: float) -> str:
    """A time as answers show it: ISO 8601 in UTC."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat().replace("+00:00", "Z")


def _matches(cells: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> Mask:
    """Which cells hold one of the codes or numbers that are wanted."""
    if len(wanted) > COMPARED_ONE_BY_ONE:
        return np.isin(cells, wanted)
    found = np.zeros(len(cells), dtype=bool)
    for value in wanted:
        found |= cells == value
    return found


def _grown(cells: npt.NDArray[Cell], rows: int, padding: float) -> npt.NDArray[Cell]:
    larger = np.full(rows, padding, dtype=cells.dtype)
    larger[: len(cells)] = cells
    return larger
