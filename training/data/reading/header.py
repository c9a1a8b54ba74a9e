"""Where the names of a text file's columns are, and what separates them."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from training.data.reading.presets import SEPARATORS

COMMENT = "#"


class Header(NamedTuple):
    """The line that names the columns: its number from 1, and what separates them there and below."""

    line: str
    number: int
    separator: str

    @property
    def names(self) -> list[str]:
        is_spaced = f'{self.separator} "' in self.line
        try:
            return next(csv.reader([self.line], delimiter=self.separator, skipinitialspace=is_spaced), [])
        except csv.Error:  # it is no such line
            return []


def find_header(
    lines: Iterable[str], key: str, wanted: Collection[str], separators: Sequence[str] = SEPARATORS
) -> Header | None:
    """The first line that is not blank, a comment, or what says the separator: `sep=;`.

    Of `separators` it is the one that yields the most of the columns `wanted`. A line that begins with `#` is
    a comment unless it names the column `key`, with the mark as a part of the first name or without; where
    there is nothing else, the first one is the header. None where all is blank.
    """
    comment: Header | None = None
    for number, line in enumerate(lines, 1):
        line = line.removeprefix("\ufeff").rstrip("\r\n")
        if said := re.fullmatch(r'"?sep=(.)"?\s*', line):
            separators = [said[1]]
            continue
        forms = (line, line.lstrip(COMMENT)) if line.startswith(COMMENT) else (line,)
        headers = (Header(form, number, each) for form in forms for each in separators)
        header = max(headers, key=lambda header: _found(header, wanted))
        if line.strip() and (len(forms) == 1 or key in map(str.strip, header.names)):
            return header
        comment = comment or (header if line.strip() else None)
    return comment


def _found(header: Header, wanted: Collection[str]) -> tuple[int, int]:
    names = header.names
    return len({name.strip() for name in names} & set(wanted)), len(names)
