"""The click log in Redis, for its one reader: what is new, and room made behind what is collected."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import duckdb
import numpy as np
import pyarrow as pa
import structlog
from redis import Redis
from redis.cluster import RedisCluster
from redis.exceptions import OutOfMemoryError, ResponseError

from service.process.settings import Settings
from service.state.keys import Keys
from training.data.clicks import ClicksError, Commit, Gap, Position

PAGE = 10_000  # entries asked for at a time
START = Position(id="0-0", seq=0)

log = structlog.get_logger()

_FIELDS = ("id", "seq", "session", "item", "ts", "type", "event", "rec", "erased")
_YEAR_10000 = 253_402_300_800  # epoch seconds; a day is written with four digits of its year
# What an entry means; one with a `reason` is no click. Numbers are validated as text: a cast would round 1.5.
_VALIDATE = rf"""
SELECT
    id,
    CASE WHEN regexp_full_match(seq, '\d{{1,18}}') THEN CAST(seq AS BIGINT) END AS seq,
    session AS session_id,
    item AS item_id,
    TRY_CAST(ts AS DOUBLE) AS timestamp,
    type,
    nullif(event, '') AS event_id,
    nullif(rec, '') AS recommendation_id,
    erased IS NOT NULL AS erased,
    CASE
        WHEN seq IS NULL THEN 'no seq'
        WHEN NOT regexp_full_match(seq, '\d{{1,18}}') THEN 'seq is no whole number'
        WHEN session IS NULL THEN 'no session'
        WHEN erased IS NOT NULL THEN NULL
        WHEN item IS NULL THEN 'no item'
        WHEN ts IS NULL THEN 'no ts'
        WHEN type IS NULL THEN 'no type'
        WHEN event IS NULL THEN 'no event'
        WHEN TRY_CAST(ts AS DOUBLE) IS NULL THEN 'ts is no number'
        WHEN NOT (TRY_CAST(ts AS DOUBLE) >= 0 AND TRY_CAST(ts AS DOUBLE) < {_YEAR_10000})
            THEN 'ts is out of range'
    END AS reason
FROM page
"""

Entry = tuple[str, dict[str, str]]  # stream id, fields


@dataclass(frozen=True)
class Batch:
    """What comes next in the log, shard after shard, and the position of every shard behind it.

    `entries`: id, seq, session_id, item_id, timestamp, type, event_id, recommendation_id, shard; erased: it
    is a request to erase the session; reason: why it is neither click nor request, and entry: then all its
    fields, as JSON; place: in the batch.
    """

    entries: pa.Table
    positions: dict[int, Position]
    gaps: tuple[Gap, ...]


class ClickLog:
    """The streams of all shards. Every method raises `redis.RedisError`."""

    def __init__(
        self, client: Redis | RedisCluster, settings: Settings, database: duckdb.DuckDBPyConnection
    ) -> None:
        """The client must decode its answers."""
        self._client = client
        self._settings = settings
        self._keys = Keys(settings.redis_prefix)
        self._database = database

    def ends(self, commit: Commit) -> dict[int, str]:
        """The last id given in each shard; no shards at all in a Redis that no service has used yet.

        Raises `ClicksError` when this is not the log that `commit` was collected from.
        """
        stored = cast("str | None", self._client.get(self._keys.shards))
        shards = None if stored is None else int(stored)
        if commit.shards not in (None, shards):
            raise _another_redis(f"it has {shards or 'no'} shards instead of {commit.shards}")
        with self._client.pipeline(transaction=False) as pipe:
            for shard in range(shards or 0):
                pipe.xinfo_stream(self._keys.click_log(shard))
            ends = {i: _last_id(answer) for i, answer in enumerate(pipe.execute(raise_on_error=False))}
        for shard, position in commit.positions.items():
            if _parts(ends[shard]) < _parts(position.id):
                raise _another_redis(
                    f"the log of shard {shard} ends at {ends[shard]}, but is collected up to {position.id}"
                )
        return ends

    def now(self) -> float:
        """Epoch seconds, by the clock that gave the ids; of a cluster's, the one that is furthest behind."""
        seconds, microseconds = self._time()
        return float(seconds) + microseconds / 1e6

    def batches(
        self, positions: Mapping[int, Position], ends: Mapping[int, str], size: int
    ) -> Iterator[Batch]:
        """What lies between the positions and the ends, by at most `size` entries."""
        reached = dict(positions)
        tables: list[pa.Table] = []
        gaps: list[Gap] = []
        rows = 0
        for shard, end in ends.items():
            while page := self._page(shard, reached.get(shard, START), end, min(PAGE, size - rows)):
                tables.append(self._validated(page, shard, first_place=rows))
                reached[shard], found = _followed(shard, reached.get(shard, START), tables[-1])
                gaps += found
                rows += len(page)
                if rows == size:
                    yield Batch(pa.concat_tables(tables), dict(reached), tuple(gaps))
                    tables, gaps, rows = [], [], 0
        if rows:
            yield Batch(pa.concat_tables(tables), dict(reached), tuple(gaps))

    def acknowledge(self, positions: Mapping[int, Position]) -> None:
        """Take from the log what is collected and old, or in the way, and tell the service how far that is.

        Nothing behind a position is touched. Up to it, entries go at `click_log_max_age_seconds`, or, oldest
        first, while a log is longer than half of what it may hold; all of them when Redis has no memory left.
        Trimming needs none, and goes first. What the service is told is for its metrics only: what decides,
        here and after a crash, is the commit on disk.
        """
        seconds, microseconds = self._time()
        age = round(self._settings.click_log_max_age_seconds * 1000)
        too_old = max(0, seconds * 1000 + microseconds // 1000 - age)
        with self._client.pipeline(transaction=False) as pipe:
            for shard, position in positions.items():
                first_kept = min((too_old, 0), _parts(_following(position.id)))
                pipe.xtrim(self._keys.click_log(shard), minid=_id(first_kept), approximate=False)
                pipe.xlen(self._keys.click_log(shard))
            lengths = pipe.execute()[1::2]
        for (shard, position), length in zip(positions.items(), lengths, strict=True):
            self._make_room(shard, position, length - self._settings.click_log_max_entries_per_shard // 2)
        try:
            self._tell(positions)
        except OutOfMemoryError:
            self._trim_all_collected(positions)

    def _time(self) -> tuple[int, int]:
        """Of the clock that gave the ids."""
        if isinstance(self._client, RedisCluster):
            times = self._client.time(target_nodes=RedisCluster.PRIMARIES)
            return min(cast("dict[str, tuple[int, int]]", times).values())
        return self._client.time()

    def _tell(self, positions: Mapping[int, Position]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for shard, position in positions.items():
                pipe.set(self._keys.collected(shard), f"{position.id} {position.seq}")
            pipe.execute()

    def _trim_all_collected(self, positions: Mapping[int, Position]) -> None:
        log.warning("redis is full: what is collected leaves the click log before its time")
        with self._client.pipeline(transaction=False) as pipe:
            for shard, position in positions.items():
                pipe.xtrim(self._keys.click_log(shard), minid=_following(position.id), approximate=False)
            pipe.execute()
        try:
            self._tell(positions)
        except OutOfMemoryError:
            log.error(
                "redis is still full, with nothing collected left in it: something else takes its memory"
            )

    def _make_room(self, shard: int, position: Position, excess: int) -> None:
        stream = self._keys.click_log(shard)
        while excess > 0:
            oldest = self._range(stream, "-", position.id, min(PAGE, excess))
            if not oldest:
                return
            self._client.xtrim(stream, minid=_following(oldest[-1][0]), approximate=False)
            excess -= len(oldest)

    def _page(self, shard: int, position: Position, end: str, count: int) -> list[Entry]:
        if _parts(position.id) >= _parts(end):
            return []
        return self._range(self._keys.click_log(shard), f"({position.id}", end, count)

    def _range(self, stream: str, first: str, last: str, count: int) -> list[Entry]:
        return cast("list[Entry]", self._client.xrange(stream, first, last, count=count))

    def _validated(self, page: list[Entry], shard: int, first_place: int) -> pa.Table:
        """A page as entries of a batch."""
        texts = [{**fields, "id": id_} for id_, fields in page]
        schema = pa.schema([(field, pa.string()) for field in _FIELDS])
        self._database.register("page", pa.Table.from_pylist(texts, schema=schema))
        validated = self._database.execute(_VALIDATE).to_arrow_table()
        self._database.unregister("page")
        reasons = validated["reason"].to_pylist()
        raw = [json.dumps(page[i][1]) if reason else None for i, reason in enumerate(reasons)]
        return (
            validated.append_column("entry", pa.array(raw, pa.string()))
            .append_column("shard", pa.array(np.full(len(page), shard, np.int32)))
            .append_column("place", pa.array(np.arange(first_place, first_place + len(page))))
        )


def _followed(shard: int, position: Position, entries: pa.Table) -> tuple[Position, list[Gap]]:
    """The position behind a page of entries, and where their numbers do not count on by one.

    An entry whose number cannot be read has none: if the service gave it one, that is missing.
    """
    seqs = np.concatenate([[position.seq], entries["seq"].drop_null().to_numpy()])
    now = datetime.now(UTC)
    gaps = [
        Gap(shard=shard, after_seq=seqs[place], next_seq=seqs[place + 1], noticed_at=now)
        for place in np.flatnonzero(np.diff(seqs) != 1)
    ]
    return Position(id=entries["id"][-1].as_py(), seq=seqs[-1]), gaps


def _another_redis(what: str) -> ClicksError:
    return ClicksError(
        f"{what}: this is another Redis than the clicks were collected from, or an older copy of it, or its "
        "clock was set back. Set NEXTCLICK_REDIS_URL and NEXTCLICK_REDIS_PREFIX as the service has them, or "
        "move the collected clicks away to begin anew"
    )


def _last_id(answer: object) -> str:
    """Of an answer to XINFO STREAM. Trimming may leave a stream empty: its last id stays."""
    if isinstance(answer, ResponseError) and str(answer) == "no such key":
        return START.id
    if isinstance(answer, Exception):
        raise answer
    return cast("dict[str, str]", answer)["last-generated-id"]


def _parts(id_: str) -> tuple[int, int]:
    milliseconds, number = id_.split("-")
    return int(milliseconds), int(number)


def _id(parts: tuple[int, int]) -> str:
    return f"{parts[0]}-{parts[1]}"


def _following(id_: str) -> str:
    milliseconds, number = _parts(id_)
    return _id((milliseconds, number + 1))
