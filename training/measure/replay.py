"""Answers that were given, again: from the collected clicks, the bundle, and what the answer's id says.

The id has a digest of the session and of all items that it held, and one of the items that were answered. So
the moment is found by going through collected sessions click by click, and what comes out is the answer that
was given, or it is said that it is not. What others click (stages `trending` and `neighbours`) is not kept:
such an answer cannot be made again, but one that somebody has kept can be checked.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import duckdb

from service.live.deployment import bundle_path, read_deployment
from service.live.quality import TOP
from service.live.recommendation_ids import NO_VERSION, UNREAD, RecommendationId, parse
from service.process.settings import Settings
from service.ranking.bundle import Bundle
from service.ranking.served import Query, Scored, ServedBundle
from training.data.clicks import DIRECTORY, Commit, files_of_newest_days, read_commit

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
class Moment:
    """What the service knew of a session when it answered."""

    session_id: str
    clicks: tuple[Collected, ...] = ()  # that the session held, oldest first
    degraded: bool = False  # Redis did not answer: what it held was not known

    @property
    def seen(self) -> Sequence[str]:
        """The items, as the id has them."""
        return UNREAD if self.degraded else [click.item_id for click in self.clicks]

    def __str__(self) -> str:
        if self.degraded:
            return f"session {self.session_id!r} could not be read: Redis did not answer"
        if not self.clicks:
            return f"session {self.session_id!r} held no click"
        newest = self.clicks[-1]
        at = datetime.fromtimestamp(newest.timestamp, UTC)
        return (
            f"session {self.session_id!r} held {len(self.clicks)} clicks, the newest on {newest.item_id!r} "
            f"at {at:%Y-%m-%d %H:%M:%S} UTC"
        )


@dataclass(frozen=True)
class Answer:
    """Items that were answered, and what gave the first of them."""

    stage: Literal["model", "popular"]
    items: list[Scored]


@dataclass(frozen=True)
class Replayed:
    """An answer as it was given: what `RecommendationAnswer` says of it, and its moment."""

    moment: Moment
    version: str
    encoded: tuple[str, ...]  # the items that the model saw
    ignored: tuple[str, ...]  # those that it does not know
    answer: Answer


def replay(
    settings: Settings, recommendation_id: str, session_id: str | None = None, exclude: Collection[str] = ()
) -> Replayed:
    """The answer with this id; `session_id` spares the search for the session.

    `exclude`: items that the request excluded, or that were hidden then: nothing remembers those. Settings
    must be those of the service. Raises `ReplayError`, and `ClicksError`, `BundleError`, `DeploymentError`
    for files that cannot be read.
    """
    wanted = _parsed(recommendation_id)
    if wanted.version == NO_VERSION:
        raise ReplayError("no bundle was published yet: what was trending answered, which is not kept")
    path = bundle_path(settings.artifacts_dir, wanted.version)
    if not path.is_dir():
        raise ReplayError(
            f"{path}: is not there: the bundle that answered was deleted since, or is elsewhere"
        )
    moment = _moment(settings, wanted, recommendation_id, session_id)
    bundle = Bundle.load(path)
    encoder_items = [click.item_id for click in moment.clicks if click.type in settings.encoder_click_types]
    known = [item_id for item_id in encoder_items if item_id in bundle.index_of]
    known = known[-bundle.ranker.max_length :]
    hidden = frozenset(read_deployment(settings.artifacts_dir).hidden)
    answer = _answer(bundle, hidden, wanted, moment, known, exclude)
    if answer is None:
        raise ReplayError(_why_not(moment, encoder_items, known, wanted))
    return Replayed(
        moment=moment,
        version=wanted.version,
        encoded=tuple(known),
        ignored=tuple(dict.fromkeys(item_id for item_id in encoder_items if item_id not in bundle.index_of)),
        answer=answer,
    )


def check(
    settings: Settings, recommendation_id: str, item_ids: Sequence[str], session_id: str | None = None
) -> Moment:
    """The moment at which just these items were answered under this id, whatever gave them.

    Raises `ReplayError` if they were not, and `ClicksError`.
    """
    wanted = _parsed(recommendation_id)
    moment = _moment(settings, wanted, recommendation_id, session_id)
    if not wanted.is_answer(moment.session_id, moment.seen, item_ids):
        raise ReplayError(f"{moment}; these {len(item_ids)} items, in this order, were not answered then")
    return moment


def _parsed(recommendation_id: str) -> RecommendationId:
    wanted = parse(recommendation_id)
    if wanted is None:
        raise ReplayError(f"{recommendation_id!r} is no id of a recommendation: <version>~<32 hex digits>")
    return wanted


def _answer(
    bundle: Bundle,
    hidden: frozenset[str],
    wanted: RecommendationId,
    moment: Moment,
    known: Sequence[str],
    exclude: Collection[str],
) -> Answer | None:
    """What model and bundle answer where nothing trends, as `Recommender` does; None: it was another."""
    index_of = bundle.index_of
    excluded = {*exclude, *moment.seen} if wanted.exclude_seen else {*exclude}
    left_out = {index_of[item_id] for item_id in excluded if item_id in index_of}
    for then_hidden in dict.fromkeys((hidden, frozenset[str]())):
        served = ServedBundle.of(bundle, then_hidden)
        # Of a session that is judged more are asked for, and an approximate index finds others then.
        for k in dict.fromkeys((wanted.k, max(wanted.k, TOP))):
            items: list[Scored] = []
            if known:
                (items,) = served.rank([Query([index_of[item_id] for item_id in known], k, left_out)])
            stage: Literal["model", "popular"] = "model" if items else "popular"
            if len(items) < k:
                found = [item_id for item_id, _ in items]
                items = [*items, *served.popular(k - len(items), excluded.union(found))]
            items = items[: wanted.k]
            if wanted.is_answer(moment.session_id, moment.seen, [item_id for item_id, _ in items]):
                return Answer(stage, items)
    return None


def _why_not(
    moment: Moment, encoder_items: Sequence[str], known: Sequence[str], wanted: RecommendationId
) -> str:
    """All that can have made another answer than the model and the bundle do."""
    if moment.degraded or not encoder_items:
        others = "what was trending then"
    elif encoder_items[-1] not in known:
        others = f"what was trending then, or clicked together with {encoder_items[-1]!r},"
    else:
        others = "what was trending then"
    if not known:
        reason = f"{wanted.version} knows no item that it could go by: {others} answered"
    else:
        reason = (
            f"{wanted.version} does not answer so: the request excluded items, or other ones were hidden "
            f"than now (if you know which, --exclude names them), or {others} was part of the answer"
        )
    return f"{moment}; {reason}. Of that no copy is kept; an answer that you have kept --check can verify"


def _moment(
    settings: Settings, wanted: RecommendationId, recommendation_id: str, session_id: str | None
) -> Moment:
    """What the session held when it was answered. Raises `ReplayError`, `ClicksError`."""
    if session_id is not None and (found := _without_clicks(wanted, session_id)):
        return found  # it need not have clicked ever
    kept = read_commit(settings.artifacts_dir / DIRECTORY)
    if not kept.files and kept.totals.clicks:
        raise ReplayError(f"all collected clicks were deleted since: {_kept(settings, kept)}")
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
            if found := _without_clicks(wanted, session):
                return found
            for held in moments(settings, clicks):
                if wanted.is_moment(session, [click.item_id for click in held]):
                    return Moment(session, tuple(held))
    searched = f"{sessions:,} collected sessions" if session_id is None else f"session {session_id!r}"
    raise ReplayError(
        f"at no moment of {searched} it was given. {_kept(settings, kept)}. Were its clicks not collected "
        "yet, or erased? Had its session never a click (--session names it), was it not stored (POST "
        "/recommend), or answered by a version of this program whose ids did not tell?"
    )


def _without_clicks(wanted: RecommendationId, session_id: str) -> Moment | None:
    """The moment, if the session was empty then or could not be read."""
    for moment in (Moment(session_id), Moment(session_id, degraded=True)):
        if wanted.is_moment(session_id, moment.seen):
            return moment
    return None


def _kept(settings: Settings, commit: Commit) -> str:
    """Which clicks there are to look through."""
    first = f"kept are clicks since {commit.files[0].day}" if commit.files else "none is kept"
    days = settings.click_retention_days
    if days is None:
        return f"{first}; NEXTCLICK_CLICK_RETENTION_DAYS is unset here, so `collect` deletes none"
    return f"{first}; `collect` deletes what is older than {days} days (NEXTCLICK_CLICK_RETENTION_DAYS)"


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
