"""External item ids and item indices, each from the other, in two files that all workers map.

`items.txt` holds the ids. `items.lookup.npy` is one array of uint32 that tells where each of them begins and,
by its CRC-32, which index it has:

    header     format, bits, n, how many share their CRC-32 with others
    starts     (n + 1,)      where in items.txt each line begins, and where the last one ends
    buckets    (2^bits + 1,) where the items begin whose CRC-32 begins with these bits
    hashes     (n,)          of the items by CRC-32
    indices    (n,)          of the same; 0 where others have the same CRC-32
    shared     their indices

Ids with one CRC-32 are easily made, and a lookup shall not become slow by them: those are kept in a dict.
The most popular items, which nearly all requests are about, are kept as Python objects, too.
"""

from __future__ import annotations

import mmap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload
from zlib import crc32

import numpy as np
import numpy.typing as npt

from service.ranking.retriever import spread

MAX_ITEM_ID_LENGTH = 256
HEAD = 65_536  # items that are kept as Python objects, at most 10 MB
FORMAT = 1
HEADER = 4
HASH_BITS = 32
READ_AT_ONCE = 1 << 24  # bytes
READ_ITEMS = 65_536  # at once, by who asks for all of them
MAX_BYTES = 2**32 - 2  # of items.txt

Words = npt.NDArray[np.uint32]


class BadItems(ValueError):  # noqa: N818
    """Among the lines of items.txt is one that is no item id, or that stands there twice."""


def item_id_problem(item_id: str) -> str | None:
    """What is wrong with an external item id, or None."""
    if not item_id:
        return "is empty"
    if len(item_id) > MAX_ITEM_ID_LENGTH:
        return f"is longer than {MAX_ITEM_ID_LENGTH} characters"
    if not item_id.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in item_id):
        return "holds a control character"
    return None


def lookup_of(content: bytes | mmap.mmap) -> Words:
    """What items.lookup.npy holds for this items.txt. Raises `BadItems`, `UnicodeDecodeError`."""
    if len(content) > MAX_BYTES:
        raise BadItems("it is larger than 4 GiB")
    lengths, hashes = [], []
    for lines in _pieces(content):
        lengths.append(np.fromiter(map(len, lines), np.int64, len(lines)))
        hashes.append(np.fromiter(map(crc32, lines), np.uint32, len(lines)))
    n = sum(map(len, hashes))
    starts = np.zeros(n + 1, dtype=np.uint32)
    starts[1:] = np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]) + 1)
    unsorted = np.concatenate([np.zeros(0, np.uint32), *hashes])
    order = np.argsort(unsorted, kind="stable")
    in_order = unsorted[order]
    indices = (order + 1).astype(np.uint32)
    same = in_order[1:] == in_order[:-1]
    is_shared = np.zeros(n, dtype=bool)
    is_shared[1:] |= same
    is_shared[:-1] |= same
    shared = indices[is_shared]
    named = {content[starts[item - 1] : starts[item] - 1] for item in shared.tolist()}
    if len(named) < len(shared):
        raise BadItems("an id stands there twice")
    indices[is_shared] = 0
    bits = max(1, (n - 1).bit_length())
    buckets = np.zeros(2**bits + 1, dtype=np.uint32)
    buckets[1:] = np.cumsum(np.bincount(in_order >> (HASH_BITS - bits), minlength=2**bits))
    header = np.array([FORMAT, bits, n, len(shared)], dtype=np.uint32)
    return np.concatenate([header, starts, buckets, in_order, indices, shared])


def _pieces(content: bytes | mmap.mmap) -> Iterator[list[bytes]]:
    """The lines, some megabytes of them at once, and all of them good."""
    place, size = 0, len(content)
    while place < size:
        end = content.rfind(b"\n", place, place + READ_AT_ONCE) + 1
        end = end or content.find(b"\n", place) + 1 or size
        piece = content[place:end].removesuffix(b"\n")
        place = end
        text, lines = piece.decode("utf-8"), piece.split(b"\n")
        sizes = [len(line) for line in lines]
        if min(sizes) == 0 or max(sizes) > MAX_ITEM_ID_LENGTH or not text.replace("\n", "").isprintable():
            for item_id in text.split("\n"):
                if problem := item_id_problem(item_id):
                    raise BadItems(f"item id {problem}")
        yield lines


class ItemTable:
    """Both directions of one items.txt."""

    def __init__(self, content: bytes | mmap.mmap, lookup: Words) -> None:
        """Raises `ValueError` for a lookup that is not made for it."""
        if lookup.ndim != 1 or lookup.dtype != np.uint32 or len(lookup) < HEADER:
            raise ValueError("it is not one array of uint32")
        made, bits, n, n_shared = lookup[:HEADER].tolist()
        if made != FORMAT:
            raise ValueError(f"its format is {made}, this service reads {FORMAT}")
        sizes = [n + 1, 2**bits + 1 if 1 <= bits <= HASH_BITS else 0, n, n, n_shared]
        if len(lookup) != HEADER + sum(sizes):
            raise ValueError(f"it has {len(lookup)} words, which does not fit its header")
        ends = (HEADER + np.cumsum([0, *sizes])).tolist()
        words = lookup.data  # its single elements are read twice as fast as an array's
        parts = [words[start:end] for start, end in pairwise(ends)]
        self.n_items: int = n
        self._content, self._lookup = content, lookup
        self._starts, self._buckets, self._hashes, self._indices, shared = parts
        if self._starts[0] != 0 or self._starts[n] != len(content) + (content[-1:] != b"\n" and n > 0):
            raise ValueError("it was made for another items.txt")
        self._shift = HASH_BITS - bits
        self.head = ("", *self._some(1, min(n, HEAD) + 1))
        self.head_of: dict[str, int] = {item_id: item for item, item_id in enumerate(self.head) if item}
        self._shared: dict[str, int] = {self.text(item): item for item in shared.tolist()}

    @classmethod
    def open(cls, file: Path, lookup: Path) -> ItemTable:
        """Map both files, which all processes that do so share. Raises `ValueError`, `OSError`."""
        return cls(_mapped(file), np.load(lookup, mmap_mode="r", allow_pickle=False))

    @classmethod
    def build(cls, file: Path) -> ItemTable:
        """Of a bundle without a lookup: made in this process' own memory. Raises as `lookup_of`."""
        content = _mapped(file)
        return cls(content, lookup_of(content))

    def text(self, item: int) -> str:
        """The id of item index 1..n, as it stands in the file."""
        start = self._starts
        return self._content[start[item - 1] : start[item] - 1].decode()

    def find(self, item_id: str) -> int:
        """The item index of an id, 0 if there is no such item."""
        try:
            key = item_id.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which no file can hold
            return 0
        hashed = crc32(key)
        bucket = hashed >> self._shift
        hashes = self._hashes
        for place in range(self._buckets[bucket], self._buckets[bucket + 1]):
            if hashes[place] == hashed:
                item: int = self._indices[place]
                if not item:
                    return self._shared.get(item_id, 0)
                start = self._starts
                return item if self._content[start[item - 1] : start[item] - 1] == key else 0
        return 0

    def pieces(self) -> Iterator[list[str]]:
        """All ids in order, many at once."""
        for first in range(1, self.n_items + 1, READ_ITEMS):
            yield self._some(first, min(first + READ_ITEMS, self.n_items + 1))

    def same(self, other: ItemTable) -> bool:
        """Whether both have the same ids in the same order."""
        return self.n_items == other.n_items and all(
            mine == theirs for mine, theirs in zip(self.pieces(), other.pieces(), strict=True)
        )

    def problem(self, sample: int | None = None) -> str | None:
        """What of the lookup does not fit the ids, of a sample of them; None looks at all."""
        try:
            for item in spread(self.n_items, sample or 1).tolist():
                if self.find(self.text(item)) != item:
                    return f"it does not find item {item}"
            if sample is None and not np.array_equal(lookup_of(self._content), self._lookup):
                return "it is not what this items.txt makes"
        except UnicodeDecodeError:
            return "its places are not those of the lines"
        return None

    def _some(self, first: int, end: int) -> list[str]:
        if end <= first:
            return []
        content = self._content[self._starts[first - 1] : self._starts[end - 1] - 1]
        return content.decode().split("\n")


class ItemIds(Sequence[str]):
    """External ids by item index; at 0 stands PAD's empty one."""

    def __init__(self, table: ItemTable) -> None:
        self._table = table
        self._head = table.head

    def __len__(self) -> int:
        return self._table.n_items + 1

    @overload
    def __getitem__(self, item: int) -> str: ...

    @overload
    def __getitem__(self, item: slice) -> list[str]: ...

    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return self.of(range(*item.indices(len(self))))
        if item < 0:
            item += len(self)
        if not 0 <= item < len(self):
            raise IndexError(item)
        return self._head[item] if item < len(self._head) else self._table.text(item)

    def __iter__(self) -> Iterator[str]:
        yield ""
        for some in self._table.pieces():
            yield from some

    def of(self, items: Sequence[int]) -> list[str]:
        """The ids of many items at once. Raises `IndexError`, unless all of them are in 0..n."""
        head, text = self._head, self._table.text
        n_head = len(head)
        return [head[item] if item < n_head else text(item) for item in items]

    def pieces(self) -> Iterator[list[str]]:
        """The ids of item index 1..n in order, many at once."""
        return self._table.pieces()

    def same(self, other: ItemIds) -> bool:
        """Whether both have the same ids in the same order."""
        return self._table.same(other._table)


class IndexOf(Mapping[str, int]):
    """Item indices by external id."""

    def __init__(self, table: ItemTable) -> None:
        self._table = table
        self._head_of = table.head_of
        self._all = len(table.head_of) == table.n_items  # whether that is all of them
        self._find = table.find

    def problem(self, sample: int | None = None) -> str | None:
        """What of the lookup does not fit the ids, of a sample of them; None looks at all."""
        return self._table.problem(sample)

    def __len__(self) -> int:
        return self._table.n_items

    def __iter__(self) -> Iterator[str]:
        for some in self._table.pieces():
            yield from some

    def __getitem__(self, item_id: str) -> int:
        item = self.find(item_id)
        if not item:
            raise KeyError(item_id)
        return item

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._head_of or (
            not self._all and isinstance(item_id, str) and self._find(item_id) > 0
        )

    def find(self, item_id: str) -> int:
        """The item index, 0 for what is no item of the bundle."""
        item = self._head_of.get(item_id)
        if item is not None:
            return item
        return 0 if self._all else self._find(item_id)

    def of(self, item_ids: Iterable[str]) -> list[int]:
        """The item indices of many ids at once, 0 for those that are no items of the bundle."""
        if self._all:
            known = self._head_of.get
            return [known(item_id, 0) for item_id in item_ids]
        find = self.find
        return [find(item_id) for item_id in item_ids]


def _mapped(file: Path) -> bytes | mmap.mmap:
    with file.open("rb") as stream:
        stream.seek(0, 2)
        # Nothing can be mapped of an empty file.
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if stream.tell() else b""
