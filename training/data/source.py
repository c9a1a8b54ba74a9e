"""What was understood of the files of a log, in lines for people; files that are alike are told of as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from training.data.dataset import SourceFile

WIDTH = 78
_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}


def told_sources(sources: Sequence[SourceFile]) -> list[str]:
    """Lines of at most about 80 characters, but for paths."""
    alike: dict[tuple[object, ...], list[SourceFile]] = {}
    for source in sources:
        kind = (source.format, source.compression, source.encoding, source.separator, source.time_unit)
        others = (tuple(source.columns.items()), tuple(source.id_types.items()) if source.kept else None)
        alike.setdefault((*kind, *others), []).append(source)
    return [line for files in alike.values() for line in _told(files)]


def _told(files: Sequence[SourceFile]) -> list[str]:
    first = files[0]
    many = f"{len(files):,} files alike, {first.path} to {files[-1].path}"
    name = first.path if len(files) == 1 else many
    separator = first.separator and f"separated by {_NAMES.get(first.separator, first.separator)}"
    what = [first.format, first.compression, first.encoding, separator]
    lines = [name, *_wrapped("format", [part for part in what if part])]
    columns = []
    for field, column in first.columns.items():
        kind = first.time_unit if field == "time" else first.id_types.get(field)
        columns.append(f"{field} = {column}" + (f" ({kind})" if kind else ""))
    lines += _wrapped("columns", columns)
    rejected = sum((Counter(file.rejected) for file in files), Counter[str]())
    reasons = [f"{reason.replace('_', ' ')} {rows:,}" for reason, rows in sorted(rejected.items())]
    n_lines, kept = sum(file.lines for file in files), sum(file.kept for file in files)
    counts = [f"{n_lines:,} in all", f"{kept:,} clicks kept", f"{rejected.total():,} rejected"]
    lines += _wrapped("rows" if first.encoding is None else "lines", counts)
    lines += _wrapped("rejected", reasons)
    times = [time for file in files for time in (file.first_time, file.last_time) if time]
    if times:
        lines.append(f"  {'times':<9} {min(times)} to {max(times)}")
    sample = next((file.sample for file in files if file.sample), "")
    return [*lines, *_wrapped("sample", [_cut(sample)] if sample else [])]


def _wrapped(label: str, parts: Sequence[str]) -> list[str]:
    lines = list[str]()
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 2 <= WIDTH:
            lines[-1] += f", {part}"
        else:
            lines.append(f"  {'' if lines else label:<9} {part}")
    return lines


def _cut(sample: str) -> str:
    shown = "".join(character if character.isprintable() else "·" for character in sample.replace("\t", "  "))
    return shown if len(shown) <= WIDTH - 12 else f"{shown[: WIDTH - 13]}…"
