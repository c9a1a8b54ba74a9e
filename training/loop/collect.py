"""From the click log in Redis to Parquet by day: every click once, whatever is killed, and when.

A batch of the log becomes new files, which are on disk before commit.json lists them together with the
positions behind the batch; only then the log is trimmed. What is killed before its commit has left nothing
but files that nothing lists.

At the end, days that are older than they are to be kept leave the commit.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from service.live.artifacts import Artifacts
from service.live.object_store import ObjectStoreError
from service.process.embedded_redis import EmbeddedRedisError, redis_at_hand
from service.process.redis_url import RedisUrl, Sentinels, parse
from service.process.settings import Settings
from service.state.sentinels import sentinel_options
from training.data.clicks import DIRECTORY, Commit, Gap, Totals
from training.loop.click_files import SPILL, Commits, ConflictError, commits_of
from training.loop.click_log import ClickLog
from training.loop.click_merge import DAY_SECONDS, EPOCH, MAX_FILES_OF_A_DAY, Merge

BATCH = 200_000  # entries of the log in memory at a time
TIMEOUT_SECONDS = 10.0  # for one answer of Redis
MEMORY_LIMIT = "500MB"  # DuckDB's, which keeps on disk what that cannot hold
THREADS = 2  # DuckDB's: the service may run on the same machine

log = structlog.get_logger()


class CollectError(RuntimeError):
    """Collecting was stopped; what is committed stays, and the next collection goes on from there."""


@dataclass(frozen=True)
class Collected:
    """What one collection did, and what there is now."""

    totals: Totals
    gaps: tuple[Gap, ...]
    commit: Commit
    expired_days: int = 0  # older than `click_retention_days`, and deleted
    expired_clicks: int = 0  # on those days


def collect(
    settings: Settings,
    *,
    batch: int = BATCH,
    max_files_of_a_day: int = MAX_FILES_OF_A_DAY,
    on_commit: Callable[[Commit], object] = lambda _: None,
    clock: Callable[[], float] = time.time,
) -> Collected:
    """Collect all that is in the click log now, by `batch` entries at a time.

    `on_commit` is told of every commit that is on disk, before the log is trimmed behind it. `clock` gives
    epoch seconds, by which clicks get too old.
    Raises `CollectError`, and `ClicksError` when what is collected cannot be added to: then nothing was.
    """
    clicks = settings.artifacts_dir / DIRECTORY
    try:
        clicks.mkdir(parents=True, exist_ok=True)
        with _locked(clicks):
            commits = commits_of(Artifacts.of(settings))
            commit = commits.last()
            with redis_at_hand(settings) as url, _connected(url) as client, _database(clicks) as database:
                click_log = ClickLog(client, settings, database)
                merge = Merge(commits, database, max_files_of_a_day)
                collected = _collect(commits, commit, click_log, merge, batch, on_commit)
                days = settings.click_retention_days
                if days is None:
                    return collected
                # What one clock that is wrong says deletes nothing.
                now = min(clock(), click_log.now())
                return _without_expired(collected, merge, now, days, on_commit)
    except (ConflictError, EmbeddedRedisError, ObjectStoreError) as error:
        raise CollectError(str(error)) from error
    except (duckdb.Error, OSError) as error:
        raise CollectError(f"{clicks}: {str(error).splitlines()[0]}; what is committed stays") from error


def _collect(
    commits: Commits,
    commit: Commit,
    click_log: ClickLog,
    merge: Merge,
    batch: int,
    on_commit: Callable[[Commit], object],
) -> Collected:
    ends = click_log.ends(commit)
    if not ends:
        log.warning("this Redis holds no click log: no service has used it yet")
    before = commit
    commit = commit.model_copy(update={"shards": len(ends) or None})
    if not commits.begun:
        commits.write(commit)
    commits.remove_unlisted(commit)
    click_log.acknowledge(commit.positions)  # in case a kill has kept the last collection from it
    for entries in click_log.batches(commit.positions, ends, batch):
        commit = merge.commit(commit, entries)
        on_commit(commit)
        _report_gaps(entries.gaps)
        click_log.acknowledge(commit.positions)
    return Collected(commit.totals - before.totals, commit.gaps[len(before.gaps) :], commit)


def _without_expired(
    collected: Collected, merge: Merge, now: float, days: int, on_commit: Callable[[Commit], object]
) -> Collected:
    before = collected.commit
    first = EPOCH + timedelta(days=int(now // DAY_SECONDS) - days)
    commit = merge.without_days_before(before, first)
    if commit == before:
        return collected
    on_commit(commit)
    expired_days = before.days - commit.days
    expired_clicks = sum(file.rows for file in before.files) - sum(file.rows for file in commit.files)
    rejected = len(before.rejected) - len(commit.rejected)
    log.info(
        "collected clicks deleted: they are older than they are to be kept",
        before=first.isoformat(),
        days=expired_days,
        clicks=expired_clicks,
        files_of_rejected=rejected,
    )
    return replace(collected, commit=commit, expired_days=expired_days, expired_clicks=expired_clicks)


def _report_gaps(gaps: Sequence[Gap]) -> None:
    for gap in gaps:
        went_on = "entries are missing" if gap.missing else "sequence numbers went back"
        log.error(
            f"click log: {went_on}",
            shard=gap.shard,
            after_seq=gap.after_seq,
            next_seq=gap.next_seq,
            missing=gap.missing,
        )


@contextmanager
def _locked(clicks: Path) -> Iterator[None]:
    with (clicks / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CollectError(f"{clicks}: another collection is running: wait until it has ended") from None
        yield


@contextmanager
def _connected(url: str) -> Iterator[Redis | RedisCluster]:
    """Raises `CollectError` for whatever Redis does not answer as it should."""
    address = parse(url)
    try:
        with _client(address) as client:
            yield client
    except (RedisError, RedisClusterException) as error:
        said = address.without_secrets(str(error))
        raise CollectError(f"{address.shown}: {said}; what is committed stays") from error


def _client(address: RedisUrl) -> Redis | RedisCluster:
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "decode_responses": True,
        "encoding_errors": "backslashreplace",  # a foreign entry that is no text shall not stop it
    }
    if address.cluster is not None:
        return _cluster_client(address, address.cluster, options)
    sentinels = address.sentinels
    return Redis.from_url(
        address.text if sentinels is None else address.at(*_primary(address, sentinels)), **options
    )


def _cluster_client(
    address: RedisUrl, places: Sequence[tuple[str, int]], options: dict[str, Any]
) -> RedisCluster:
    """By default it sends again what a lost connection may have done already; here it does not."""
    target = parse_url(address.at(*places[0]))  # type: ignore[no-untyped-call]
    is_tls = target.pop("connection_class", None) is not None
    for name in ("host", "port"):
        target.pop(name, None)
    return RedisCluster(
        startup_nodes=[ClusterNode(*place) for place in places],  # type: ignore[no-untyped-call]
        retry=Retry(NoBackoff(), 0),
        ssl=is_tls,
        **target,
        **options,
    )


def _primary(url: RedisUrl, sentinels: Sentinels) -> tuple[str, int]:
    once = {"retry": Retry(NoBackoff(), 0)}
    options = sentinel_options(url, sentinels, TIMEOUT_SECONDS)
    asked = Sentinel(sentinels.places, sentinel_kwargs=options | once)  # type: ignore[no-untyped-call]
    try:
        host, port = asked.discover_master(sentinels.service)  # type: ignore[no-untyped-call]
    finally:
        for sentinel in asked.sentinels:
            sentinel.close()
    return str(host), int(port)


@contextmanager
def _database(clicks: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    spill = str(clicks / SPILL)
    with duckdb.connect(
        config={"memory_limit": MEMORY_LIMIT, "temp_directory": spill, "threads": THREADS}
    ) as database:
        yield database
