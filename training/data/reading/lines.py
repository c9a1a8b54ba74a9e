"""A file as people send it, made plain: unpacked, in UTF-8, one way to end a line, and every line counted.

A file that is plain already is read where it is, and only counted. Of any other a copy is made, in blocks of
bytes, so that memory does not grow with the file. DuckDB reads what comes out of here; `lines` is what the
rows that it yields are held against.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BLOCK = 1 << 19  # bytes
LONGEST_LINE = BLOCK  # DuckDB takes up to 2 MB, and no line of a click log is near it
_MOST_LEFT_OUT = 1_000_000  # lines; they are kept in memory
_MOST_OF_NOTHING = 1_000  # bytes that it takes to pack nothing, under a long name
_SAMPLE = 200  # characters of a line that are shown
_MAGIC = 8  # bytes that tell what a file is
_HEAD = 1 << 12  # bytes that tell what its text is encoded as

_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_ARCHIVES = {b"PK\x03\x04": "a zip archive", b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!": "a rar archive"}
_SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".ods")  # zip archives by their first bytes
_NO_LOGS = {
    rb"Obj\x01": "an Avro file",
    rb"ARROW1": "an Arrow file",
    rb"ORC[\x00-\x1f]": "an ORC file",
    rb"SQLite f": "an SQLite database",
    rb"\xd0\xcf\x11\xe0": "a document of Microsoft Office",
}
_DOCUMENTS = {
    r"\s*\[\s*([\[{]|$)": "a JSON array: write one object a line, as `jq -c '.[]'` does",
    r"\s*\{\s*$": "JSON over several lines: write one object a line, as `jq -c .` does",
}
_MARKUP = r"(?i)\s*<(\?xml|!doctype|html)\b"
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}

_UNPACKERS: dict[str | None, Callable[[IO[bytes]], IO[bytes]]] = {
    None: lambda stream: stream,
    "gzip": lambda stream: cast(IO[bytes], gzip.GzipFile(fileobj=stream)),
    "bzip2": lambda stream: cast(IO[bytes], bz2.BZ2File(stream)),
    "xz": lambda stream: cast(IO[bytes], lzma.LZMAFile(stream)),  # noqa: SIM115 (who calls it closes it)
    "zstd": lambda stream: cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")),
}


class PrepareError(ValueError):
    """The data set cannot be prepared; the message says which file, column or option is wrong."""


@dataclass(frozen=True)
class LeftOut:
    """A line that is not in the plain file, and why."""

    line: int
    reason: str
    raw: str


@dataclass(frozen=True)
class Plain:
    """A file of UTF-8 whose lines all end alike. Where a line is `left_out`, an empty one stands."""

    path: Path
    lines: int  # the last one counts without its end, too
    blank: npt.NDArray[np.int64]  # their numbers; what is left out among them
    has_quotes: bool
    packed: str | None
    encoding: str
    left_out: tuple[LeftOut, ...] = ()

    def sample(self, n_header: int) -> str:
        """The first line after the header that is not blank, as far as it is shown."""
        with self.path.open(encoding="utf-8-sig", errors="replace") as stream:
            for number in range(n_header + 100):
                line = stream.readline(LONGEST_LINE).rstrip("\n")
                if number >= n_header and line:
                    return shortened(line)
        return ""


@dataclass
class _Survey:
    """What is found in one pass over the bytes."""

    ends: int = 0  # \n
    both: int = 0  # \r\n
    returns: int = 0  # \r
    blank: list[npt.NDArray[np.int64]] = field(default_factory=list)
    last: bytes = b""
    has_quotes: bool = False
    is_long: bool = False
    not_utf8: tuple[int, bytes] | None = None  # the first such line, and what is in it
    has_utf8: bool = False  # more than ASCII

    @property
    def lines(self) -> int:
        return self.ends + (self.last not in (b"", b"\n"))

    @property
    def ends_alike(self) -> bool:
        return self.returns == self.both and self.both in (0, self.ends)


def magic(file: Path) -> bytes:
    """The first bytes of a file, which tell what it is, whatever its name says."""
    with file.open("rb") as stream:
        return stream.read(_MAGIC)


def is_empty(file: Path) -> bool:
    """Whether a file has not a character: no byte, a mark of its encoding alone, or nothing that is packed.

    Raises `PrepareError`.
    """
    if file.stat().st_size > _MOST_OF_NOTHING:
        return False
    with _opened(file, _packed(file, magic(file))) as stream:
        return stream.read(5) in (b"", codecs.BOM_UTF8, *_MARKS)


@contextmanager
def plain_text(file: Path, work: Path, encoding: str = "auto") -> Iterator[Plain]:
    """The file made plain; a copy, if one is needed, lies in `work` until the end. Raises `PrepareError`."""
    unpacked, repaired = work / "unpacked", work / "repaired"
    try:
        packed = _packed(file, magic(file))
        found = _encoding_of(_head_of(file, packed)) if encoding == "auto" else _known(encoding)
        source = file
        if packed or found not in ("utf-8", "utf-8-sig"):
            _unpack(file, packed, found, unpacked)
            source = unpacked
        survey = _survey(source)
        if survey.not_utf8 and encoding == "auto" and not survey.has_utf8:
            line, sample = survey.not_utf8
            shown = sample.decode("windows-1252", "replace")
            raise PrepareError(
                f"{file}: line {line:,} is not UTF-8 but looks like Latin-1, {shown!r}: say --encoding "
                "windows-1252 if that reads well, or --encoding utf-8 to have such lines rejected"
            )
        left_out: tuple[LeftOut, ...] = ()
        if not survey.ends_alike or survey.not_utf8 or survey.is_long:
            left_out = tuple(_repair(file, source, repaired))
            source, survey = repaired, _survey(repaired)
        blank = np.concatenate([np.empty(0, np.int64), *survey.blank])
        yield Plain(source, survey.lines, blank, survey.has_quotes, packed, found, left_out)
    finally:
        unpacked.unlink(missing_ok=True)
        repaired.unlink(missing_ok=True)


@contextmanager
def opened_text(file: Path, encoding: str = "auto") -> Iterator[IO[str]]:
    """The text of a file, whatever it is packed in and encoded as, its mark and its ends of lines with it.

    What is no text of that encoding stays where it is, as halves of letters, or is a `UnicodeError`, in
    UTF-16 and 32. Raises `PrepareError`.
    """
    with file.open("rb") as raw:  # once, and from its begin to its end: it may be a pipe
        packed = _packed(file, raw.peek(_MAGIC))
        with _damage_told(file, packed), _UNPACKERS[packed](raw) as stream:
            # A buffer around the file's own would wait until both are full.
            unpacked = io.BufferedReader(cast(io.RawIOBase, stream)) if packed else raw
            found = _encoding_of(unpacked.peek(_HEAD)[:_HEAD]) if encoding == "auto" else _known(encoding)
            with io.TextIOWrapper(unpacked, found, "surrogateescape", newline="") as text:
                yield text


def first_line(file: Path) -> str:
    """The first line that is not blank, whatever the file is packed in and encoded as, without its mark.

    Raises `PrepareError` where a document begins, and no log.
    """
    return next(iter(first_lines(file)), "")


def first_lines(file: Path) -> list[str]:
    """Lines at the begin of a file, blank ones left out, as `first_line`; the last may be cut short."""
    packed = _packed(file, magic(file))
    encoding = _encoding_of(_head_of(file, packed))
    with _opened(file, packed) as stream:
        head = stream.read(BLOCK)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    lines = re.findall(r"[^\r\n]+", text.removeprefix("\ufeff"))
    for begin, what in _DOCUMENTS.items():
        if lines and re.match(begin, lines[0]):
            raise PrepareError(f"{file}: is {what}")
    if lines and re.match(_MARKUP, lines[0]):
        begin = lines[0][:_SAMPLE]
        raise PrepareError(f"{file}: is a page of HTML or XML, and no log: it begins with {begin!r}")
    return lines


def _packed(file: Path, head: bytes) -> str | None:
    for mark, archive in _ARCHIVES.items():
        if head.startswith(mark):
            if file.suffix.lower() in _SPREADSHEETS:
                raise PrepareError(f"{file}: is a spreadsheet: save it as CSV")
            raise PrepareError(f"{file}: is {archive}: unpack it first")
    for mark, what in _NO_LOGS.items():
        if re.match(mark, head):
            raise PrepareError(f"{file}: is {what}: write it as CSV, JSON lines or Parquet")
    return next((name for mark, name in _PACKED.items() if head.startswith(mark)), None)


@contextmanager
def _opened(file: Path, packed: str | None) -> Iterator[IO[bytes]]:
    """The unpacked bytes. Raises `PrepareError` when the packing is damaged."""
    with _damage_told(file, packed), file.open("rb") as raw, _UNPACKERS[packed](raw) as stream:
        yield stream


@contextmanager
def _damage_told(file: Path, packed: str | None) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowException) as error:
        raise PrepareError(f"{file}: the {packed} is damaged or cut off: {error}") from error
    except OSError as error:
        if packed and error.errno is None:  # how bz2 and Arrow tell of damage
            raise PrepareError(f"{file}: the {packed} is damaged or cut off: {error}") from error
        raise PrepareError(f"{file}: cannot be read: {error.strerror or error}") from error


def _head_of(file: Path, packed: str | None) -> bytes:
    with _opened(file, packed) as stream:
        return stream.read(_HEAD)


def _encoding_of(head: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) > len(head) // 5:  # text that is mostly ASCII, and has no mark
        return "utf-16-be" if even > odd else "utf-16-le"
    return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"


def _known(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise PrepareError(f"--encoding {encoding}: there is no such encoding") from None


def _unpack(file: Path, packed: str | None, encoding: str, target: Path) -> None:
    decoder = None if encoding in ("utf-8", "utf-8-sig") else codecs.getincrementaldecoder(encoding)("strict")
    lines = 0
    with _opened(file, packed) as stream, target.open("wb") as copy:
        while True:
            block = stream.read(BLOCK)
            if decoder:
                try:
                    block_read, text = bool(block), decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    raise PrepareError(
                        f"{file}: after line {lines:,} is no {encoding}: {error.reason}"
                    ) from error
                lines += text.count("\n")
                copy.write(text.removeprefix("\ufeff").encode("utf-8", "replace"))
                if not block_read:
                    return
            else:
                copy.write(block)
                if not block:
                    return


def _survey(file: Path) -> _Survey:
    found = _Survey()
    decoder = codecs.getincrementaldecoder("utf-8")()
    tail = b"\n"
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            ends = block.count(b"\n")
            if b"\r" in block or tail.endswith(b"\r"):
                found.returns += block.count(b"\r")
                found.both += block.count(b"\r\n") + (tail.endswith(b"\r") and block.startswith(b"\n"))
            if not ends and len(block) == BLOCK and b"\r" not in block:
                found.is_long = True
            window = tail + block
            if b"\n\n" in window or b"\n\r\n" in window:
                found.blank.append(found.ends + _blank_lines(tail, window))
            found.has_quotes = found.has_quotes or b'"' in block
            if found.not_utf8 is None or not found.has_utf8:
                _survey_encoding(found, decoder, block)
            found.ends += ends
            found.last = block[-1:]
            tail = window[-2:]
    if found.not_utf8 is None and decoder.getstate()[0]:
        found.not_utf8 = (found.lines, decoder.getstate()[0])
    return found


def _blank_lines(tail: bytes, window: bytes) -> npt.NDArray[np.int64]:
    """Numbers, from 1 on, of the blank lines that end within a window, after the `tail` of the one before."""
    text = np.frombuffer(window, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    before = np.concatenate([[-2], ends[:-1]])
    length = ends - before - 1
    is_blank = (length == 0) | ((length == 1) & (text[ends - 1] == ord("\r")))
    is_new = ends >= len(tail)
    return np.flatnonzero(is_blank & is_new) + 1 - np.count_nonzero(~is_new)


def _survey_encoding(found: _Survey, decoder: codecs.IncrementalDecoder, block: bytes) -> None:
    pending = decoder.getstate()[0]
    if not pending and block.isascii():
        return
    whole = pending + block
    try:
        text = decoder.decode(block)
    except UnicodeDecodeError as error:
        decoder.reset()
        if found.not_utf8 is None:
            begin = max(whole.rfind(b"\n", 0, error.start), whole.rfind(b"\r", 0, error.start)) + 1
            sample = re.split(rb"[\r\n]", whole[begin : begin + _SAMPLE], maxsplit=1)[0]
            found.not_utf8 = (found.ends + whole.count(b"\n", 0, error.start) + 1, sample)
        text = whole.decode("utf-8", "ignore")
    found.has_utf8 = found.has_utf8 or not text.isascii()


def _repair(file: Path, source: Path, target: Path) -> Iterator[LeftOut]:
    """Copy the lines, each ended by one line feed; those too long or not UTF-8 are yielded instead."""
    before = n_left_out = 0  # lines
    rest, cut = b"", b""  # the begin of a line whose end is yet to come; of one that is too long
    with source.open("rb") as stream, target.open("wb") as copy:
        while True:
            block = stream.read(BLOCK)
            text = rest + block
            held = b"\r" if block and text.endswith(b"\r") else b""  # half of \r\n, perhaps
            text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if not block and (text or cut) and not text.endswith(b"\n"):
                text += b"\n"
            whole, end, rest = text.rpartition(b"\n")
            rest += held
            if end:
                lines = whole.split(b"\n")
                if cut:
                    lines[0], cut = cut + lines[0], b""
                for n in _bad_lines(lines):
                    n_left_out += 1
                    if n_left_out > _MOST_LEFT_OUT:
                        raise PrepareError(
                            f"{file}: of the first {before + n:,} lines more than {_MOST_LEFT_OUT:,} are "
                            "not UTF-8 or too long"
                        )
                    yield LeftOut(before + n + 1, _what_is_wrong(lines[n]) or "", _sample(lines[n]))
                    lines[n] = b""
                before += len(lines)
                copy.write(b"\n".join(lines) + b"\n")
            if len(rest) > LONGEST_LINE or (cut and rest):
                # What has no end for so long is too long: enough of it is kept to say so.
                cut, rest = (cut + rest)[: LONGEST_LINE + 1], held
            if not block:
                return


def _bad_lines(lines: Sequence[bytes]) -> list[int]:
    """Places of the lines that are too long or not UTF-8; a block of good ones is not gone through."""
    try:
        b"\n".join(lines).decode()
        if len(max(lines, key=len)) <= LONGEST_LINE:
            return []
    except UnicodeDecodeError:
        pass
    return [n for n, line in enumerate(lines) if _what_is_wrong(line)]


def _what_is_wrong(line: bytes) -> str | None:
    if len(line) > LONGEST_LINE:
        return "line_too_long"
    try:
        line.decode()
    except UnicodeDecodeError:
        return "not_utf8"
    return None


def _sample(line: bytes) -> str:
    return shortened(line[: 4 * _SAMPLE].decode("utf-8", "replace"))


def shortened(text: str) -> str:
    """As much of a line as is shown."""
    return text if len(text) <= _SAMPLE else f"{text[:_SAMPLE]}…"
