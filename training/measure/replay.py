"""Answers that were given, again: from the collected clicks, the bundle, and what the answer's id says.

The id has a digest of the session and of all items that it held, and one of the items that were answered. So
the moment is found by going through collected sessions click by click, and what comes out is the answer that
was given, or it is said that it is not.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from tempfile import TemporaryDirectory
from typing import NamedTuple

import duckdb

from service.live.deployment import bundle_path, read_deployment
from service.live.quality import TOP
from service.live.recommendation_ids import RecommendationId, parse
from service.process.settings import Settings
from service.ranking.bundle import Bundle
from service.ranking.served import Query, Scored, ServedBundle
from training.data.clicks import DIRECTORY, files_of_newest_days

MEMORY_LIMIT = "500MB"
ROWS = 100_000  # in memory at a time
BRANCHES = 4  # moments at which a session may have begun anew that are followed at once

_CLICKS = """
SELECT session_id, item_id, timestamp, type FROM read_parquet(?, hive_partitioning = false) WHERE {}
ORDER BY session_id, shard, seq
"""
_NAMING = """
session_id IN (
    SELECT session_id FROM read_parquet(?, hive_partitioning = false) WHERE recommendation_id = ?
)
"""


class ReplayError(RuntimeError):
    """The answer cannot be given again; the message says why."""


class Collected(NamedTuple):
    """A collected click."""

    session_id: str
    item_id: str
    timestamp: float
    type: str


@dataclass(frozen=True)
class Replayed:
    """An answer as it was given: what `RecommendationAnswer` says of it, and its moment."""

    session_id: str
    version: str
    clicks: tuple[Collected, ...]  # that the session held, oldest first
    encoded: tuple[str, ...]  # the items that the model saw
    ignored: tuple[str, ...]  # those that it does not know
    items: tuple[Scored, ...]


def replay(settings: Settings, recommendation_id: str, session_id: str | None = None) -> Replayed:
    """The answer with this id; `session_id` spares the search for the session.

    Settings must be those of the service. Raises `ReplayError`, and `ClicksError`, `BundleError`,
    `DeploymentError` for files that cannot be read.
    """
    wanted = parse(recommendation_id)
    if wanted is None:
        raise ReplayError(f"{recommendation_id!r} is no id of a recommendation: <version>~<32 hex digits>")
    path = bundle_path(settings.artifacts_dir, wanted.version)
    if not path.is_dir():
        raise ReplayError(f"{path}: is not there: no bundle answered, or it was deleted since")
    clicks = _moment(settings, wanted, recommendation_id, session_id)
    bundle = Bundle.load(path)
    encoder_items = [click.item_id for click in clicks if click.type in settings.encoder_click_types]
    known = [item_id for item_id in encoder_items if item_id in bundle.index_of]
    known = known[-bundle.ranker.max_length :]
    if not known:
        raise ReplayError(
            f"session {clicks[0].session_id!r} then held {len(clicks)} clicks, and none that "
            f"{wanted.version} knows: what was trending or popular answered, which is not kept"
        )
    hidden = frozenset(read_deployment(settings.artifacts_dir).hidden)
    items = _answer(bundle, hidden, wanted, known, [click.item_id for click in clicks])
    if items is None:
        raise ReplayError(
            f"session {clicks[0].session_id!r} then held {len(clicks)} clicks, but the model alone does not "
            "answer as it was answered: other items were hidden, the request excluded some, or what others "
            "click was part of the answer, which is not kept"
        )
    return Replayed(
        session_id=clicks[0].session_id,
        version=wanted.version,
        clicks=clicks,
        encoded=tuple(known),
        ignored=tuple(dict.fromkeys(item_id for item_id in encoder_items if item_id not in bundle.index_of)),
        items=tuple(items),
    )


def _answer(
    bundle: Bundle,
    hidden: frozenset[str],
    wanted: RecommendationId,
    known: Sequence[str],
    seen: Sequence[str],
) -> list[Scored] | None:
    """What the model answers; None if that is not what was answered."""
    index_of = bundle.index_of
    left_out = {index_of[item_id] for item_id in seen if item_id in index_of} if wanted.exclude_seen else ()
    query = Query([index_of[item_id] for item_id in known], wanted.k, left_out)
    for then_hidden in (hidden, frozenset[str]()):
        served = ServedBundle.of(bundle, then_hidden)
        # Of a session that is judged more are asked for, and an approximate index finds others then.
        for k in (wanted.k, max(wanted.k, TOP)):
            (found,) = served.rank([query._replace(k=k)])
            items = found[: wanted.k]
            if wanted.is_answer([item_id for item_id, _ in items]):
                return items
    return None


def _moment(
    settings: Settings, wanted: RecommendationId, recommendation_id: str, session_id: str | None
) -> tuple[Collected, ...]:
    """What the session held when it was answered. Raises `ReplayError`, `ClicksError`."""
    files = [str(file) for file in files_of_newest_days(settings.artifacts_dir / DIRECTORY, None)]
    searches: list[tuple[str, list[object]]]
    if session_id is not None:
        searches = [("session_id = ?", [session_id])]
    else:  # those first that have named it
        searches = [(_NAMING, [files, recommendation_id]), ("true", [])]
    sessions = 0
    for condition, parameters in searches:
        sessions = 0
        for session, clicks in _sessions(files, condition, parameters):
            sessions += 1
            if wanted.is_moment(session, ()):
                raise ReplayError(
                    f"session {session!r} was answered without a click: it had none yet, had ended, or Redis "
                    "did not answer; what was trending or popular is not kept"
                )
            for held in moments(settings, clicks):
                if wanted.is_moment(session, [click.item_id for click in held]):
                    return tuple(held)
    raise ReplayError(
        f"at no moment of {sessions:,} collected sessions it was given. Were its clicks not collected yet, "
        "erased, or deleted for their age? Was its session not stored (POST /recommend), or answered by a "
        "version of this program whose ids did not tell?"
    )


def _sessions(
    files: list[str], condition: str, parameters: list[object]
) -> Iterator[tuple[str, list[Collected]]]:
    """Collected sessions, each with its clicks as they arrived."""
    with (
        TemporaryDirectory() as spill,
        duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": spill}) as database,
    ):
        found = database.execute(_CLICKS.format(condition), [files, *parameters]).to_arrow_reader(ROWS)
        rows = (
            Collected(*row)
            for batch in found
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
        for session, clicks in groupby(rows, attrgetter("session_id")):
            yield session, list(clicks)


def moments(settings: Settings, clicks: Sequence[Collected]) -> Iterator[list[Collected]]:
    """What the service may have held of a session after each of its clicks, in the order of their arrival.

    A session ends some time after its last click, and its id may come back. When a click arrived is not kept;
    so after a pause of about that length both are given: what goes on, and what begins anew.
    """
    ttl = settings.session_ttl_seconds
    branches: list[list[tuple[float, int, Collected]]] = [[]]
    for arrival, click in enumerate(clicks):
        pause = click.timestamp - clicks[arrival - 1].timestamp if arrival else 0.0
        if pause >= 2 * ttl:
            branches = [[]]
        elif pause >= ttl / 2:
            branches = [*branches, []][-BRANCHES:]
        for branch in branches:
            insort(branch, (click.timestamp, arrival, click))
            del branch[: -settings.session_max_clicks]
            yield [held for _, _, held in branch]
