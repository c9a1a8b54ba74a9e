"""The whole protocol once more, plainly: lists and dictionaries, one rule after the other, nothing shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.data.dataset import Dataset

DAY = 86_400


@dataclass
class Session:
    """Clicks of one session, (item, time), in order; `row` is where it begins in the log."""

    row: int
    clicks: list[tuple[str, float]] = field(default_factory=list)

    @property
    def items(self) -> list[str]:
        return [item for item, _ in self.clicks]

    @property
    def begin(self) -> float:
        return min(time for _, time in self.clicks)

    @property
    def end(self) -> float:
        return max(time for _, time in self.clicks)


@dataclass
class Outcome:
    """What a data set must hold; None stands for an item outside the vocabulary."""

    train: list[list[str]]
    test: list[list[str | None]]
    items: list[str]
    n_validation: int


def read(log: Sequence[tuple[str, str, float]]) -> list[Session]:
    """Sessions of a log of (session, item, time), each in order of time, ties in order of the log."""
    sessions: dict[str, Session] = {}
    for row, (session_id, item, time) in enumerate(log):
        sessions.setdefault(session_id, Session(row)).clicks.append((item, time))
    for session in sessions.values():
        session.clicks.sort(key=lambda click: click[1])  # a stable sort
    return list(sessions.values())


def cut(log: Sequence[tuple[str, str, float]], gap: float) -> list[Session]:
    """Sessions of a log of (visitor, item, time): a new one after a pause of more than `gap` seconds."""
    visitors: dict[str, list[tuple[float, int, str]]] = {}
    for row, (visitor, item, time) in enumerate(log):
        visitors.setdefault(visitor, []).append((time, row, item))
    sessions = []
    for clicks in visitors.values():
        last = None
        for time, row, item in sorted(clicks):
            if last is None or time - last > gap:
                sessions.append(Session(row))
            sessions[-1].row = min(sessions[-1].row, row)
            sessions[-1].clicks.append((item, time))
            last = time
    return sessions


def without_repeats(sessions: list[Session]) -> list[Session]:
    return [
        Session(s.row, [click for n, click in enumerate(s.clicks) if not n or s.clicks[n - 1][0] != click[0]])
        for s in sessions
    ]


def long_only(sessions: list[Session], min_length: int) -> list[Session]:
    return [session for session in sessions if len(session.clicks) >= min_length]


def frequent_only(sessions: list[Session], min_support: int) -> list[Session]:
    support = Counter(item for session in sessions for item in session.items)
    return with_items(sessions, {item for item, count in support.items() if count >= min_support})


def with_items(sessions: list[Session], items: set[str]) -> list[Session]:
    kept = [Session(s.row, [click for click in s.clicks if click[0] in items]) for s in sessions]
    return [session for session in kept if session.clicks]


def prepared(
    sessions: list[Session],
    *,
    min_length: int = 2,
    min_support: int = 5,
    test_days: float = 1,
    drop_repeats: bool = False,
    until_stable: bool = False,
    cut_straddling: bool = False,
) -> Outcome | None:
    """Filter and split; None where nothing would be left to train on, to validate or to test with."""
    if drop_repeats:
        sessions = without_repeats(sessions)
    sessions = long_only(sessions, min_length)
    while True:
        before = sum(len(session.clicks) for session in sessions)
        sessions = long_only(frequent_only(sessions, min_support), min_length)
        if not until_stable or before == sum(len(session.clicks) for session in sessions):
            break
    if not sessions:
        return None
    cutoff = max(session.end for session in sessions) - test_days * DAY
    if cut_straddling:
        train = [Session(s.row, [click for click in s.clicks if click[1] < cutoff]) for s in sessions]
        train = long_only(train, min_length)
        test = [session for session in sessions if session.begin >= cutoff]
    else:
        train = [session for session in sessions if session.end < cutoff]
        test = [session for session in sessions if session.end >= cutoff]
    test = long_only(with_items(test, {item for session in train for item in session.items}), min_length)
    return outcome(train, test)


def outcome(train: list[Session], test: list[Session]) -> Outcome | None:
    """Put sessions in order and items in theirs."""
    if len(train) < 2 or not test:
        return None
    train, test = (sorted(part, key=lambda session: (session.end, session.row)) for part in (train, test))
    popularity = Counter(item for session in train for item in session.items)  # in order of the first click
    items = sorted(popularity, key=lambda item: -popularity[item])
    return Outcome(
        train=[session.items for session in train],
        test=[[item if item in popularity else None for item in session.items] for session in test],
        items=items,
        n_validation=max(1, len(train) // 10),
    )


def found(path: Path) -> Outcome:
    """What a prepared data set holds."""
    dataset = Dataset.load(path)
    names = [None, *dataset.items]
    train, test = (
        [
            [names[item] for item in part.items[start:stop]]
            for start, stop in zip(part.offsets[:-1], part.offsets[1:], strict=True)
        ]
        for part in (dataset.train_all, dataset.test)
    )
    return Outcome(train, test, dataset.items, dataset.info.n_validation)
