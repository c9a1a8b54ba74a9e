"""The live state in Redis: sessions, the click log, what is trending, rate limits; `keys` names it all.

Each click is one atomic Lua call, whose keys share the hash tag of the session's shard, so the same call
works on a single Redis and on a cluster.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from service.process.settings import Settings
from service.state.cluster import link_to
from service.state.connection import Clock, Command, Reply
from service.state.keys import Keys
from service.state.link import StoreUnavailable, refusal, value
from service.state.script import Script
from service.state.tail import RESUME, Tail

_pack = msgspec.msgpack.Encoder().encode  # Redis reads it faster than JSON, and with every bit of a float

PLACEMENT = "@"  # before its name, where versions are named, too: no version begins with it
SEPARATOR = "\x1f"  # ids hold no control characters: the API refuses them


class Click(NamedTuple):
    """One click; `timestamp` is in epoch seconds."""

    item_id: str
    timestamp: float
    type: str = "click"
    event_id: str | None = None


class Arrival(NamedTuple):
    """A click as it comes in."""

    session_id: str
    click: Click
    recommendation_id: str | None = None  # of the answer that it came from; for the click log
    version: str | None = None  # whose recommendation that was
    is_cold: bool = False  # no bundle knows the item
    is_ignored: bool = False  # the item counts for nothing that others are answered


class Judged(NamedTuple):
    """What a click said of an answer: the rank of its item among those shown, 0 when it was not there.

    Of what was shown in a placement there are two: one of the version, and one `of_placement`.
    """

    version: str
    rank: int


class Appended(NamedTuple):
    """What a click left behind: the session's length; its clicks, oldest first, only when asked for."""

    length: int
    duplicate: bool
    clicks: tuple[Click, ...] = ()
    judged: tuple[Judged, ...] = ()


class Bucket(NamedTuple):
    """Whose requests are counted together, and how many of them may come in a minute."""

    name: str
    per_minute: int


class Wait(NamedTuple):
    """How long until there is room again in a bucket."""

    seconds: float
    bucket: Bucket


class Spread(NamedTuple):
    """How what was judged differs from session to session: sums over sessions.

    n, h and r are a session's clicks that judged, its hits among them and their reciprocal ranks.
    """

    sessions: float = 0.0
    clicks: float = 0.0
    hits: float = 0.0
    reciprocal_ranks: float = 0.0
    nn: float = 0.0
    hn: float = 0.0
    hh: float = 0.0
    rn: float = 0.0
    rr: float = 0.0


NO_SPREAD = Spread()


@dataclass(frozen=True)
class Quality:
    """How a version's answers did, over all workers and restarts.

    `spread` is of fewer clicks where some were judged by an earlier version of this program.
    """

    judged: int = 0
    hits: int = 0
    reciprocal_ranks: float = 0.0
    feedback: int = 0
    spread: Spread = NO_SPREAD


@dataclass(frozen=True)
class LogState:
    """How far the click log is, over all shards."""

    entries: int
    fill_ratio: float  # of the fullest shard
    uncollected: int
    lag_seconds: float  # age of the oldest entry that is not collected; 0 when there is none


class Appending(msgspec.Struct, array_like=True):
    """What `append` is told, in this order: the click, and the limits that hold; '' is not known."""

    session_id: str
    item_id: str
    timestamp: str  # the shortest text that reads back as exactly this number
    type: str
    event_id: str
    recommendation_id: str
    version: str
    feeds: bool  # the encoder
    counts: bool  # for what is trending, and as a co-click
    is_cold: bool
    with_session: bool
    session_max_clicks: int
    session_max_event_ids: int
    session_max_logged: int
    session_ttl_seconds: int
    log_max_entries: int
    trending_half_life_seconds: float
    trending_max_items: int
    cold_max_items: int
    cold_max_neighbours: int


APPEND = Script(
    "append/click.lua",
    "append/dedupe.lua",
    "append/place.lua",
    "append/log.lua",
    "append/judge.lua",
    "append/co_click.lua",
    "append/trend.lua",
    "append/answer.lua",
)
ERASE = Script("erase.lua")
REMEMBER = Script("remember.lua")
TRENDING = Script("trending.lua")
CLICK_LOG = Script("click_log.lua")
TAKE_TOKENS = Script("bucket.lua", "take_tokens.lua")
TRY_KEY = Script("bucket.lua", "try_key.lua")
SCRIPTS = (APPEND, ERASE, REMEMBER, TRENDING, CLICK_LOG, TAKE_TOKENS, TRY_KEY, RESUME)

RIGHT_KEY_SECONDS = 86400  # so long an address is known to have sent the right key


class SessionStore:
    """The live state, shared by every worker.

    Every method raises `StoreUnavailable`, but `close` and those that say otherwise.
    """

    def __init__(self, settings: Settings, url: str, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._keys = Keys(settings.redis_prefix)
        self._encoder_click_types = frozenset(settings.encoder_click_types)
        self._tail = Tail(self._keys)
        self._link = link_to(settings, url, SCRIPTS, tail=self._tail, clock=clock)

    async def append(self, session_id: str, click: Click, *, with_session: bool = False) -> Appended:
        """Store one click and log it, once per event id."""
        return await self.append_arrival(Arrival(session_id, click), with_session=with_session)

    async def append_arrival(self, arrival: Arrival, *, with_session: bool = False) -> Appended:
        """The same, with what is known of the click."""
        (reply,) = await self._link.run(lambda: [self._append(arrival, with_session=with_session)], kept=True)
        return self._appended(arrival, value(reply))

    async def append_many(self, arrivals: Sequence[Arrival]) -> list[Appended | StoreUnavailable]:
        """Store many clicks in one round trip, in order; each is its own atomic step with its own outcome."""
        try:
            replies = await self._link.run(
                lambda: [self._append(arrival, with_session=False) for arrival in arrivals], kept=True
            )
        except StoreUnavailable as error:
            return [error] * len(arrivals)
        return [
            refusal(reply) or self._appended(arrival, reply)
            for arrival, reply in zip(arrivals, replies, strict=True)
        ]

    async def read(self, session_id: str) -> tuple[Click, ...]:
        """The session's clicks, oldest first; empty when it is unknown or has expired."""
        (reply,) = await self._link.run(
            lambda: [("ZRANGE", self._keys.session(self._shard(session_id), session_id), 0, -1)]
        )
        return _clicks(value(reply))

    async def erase(self, session_id: str) -> bool:
        """Delete a session; False when it was not known.

        A tombstone goes to the click log either way: clicks of an expired session may still be there.
        """
        shard = self._shard(session_id)
        (reply,) = await self._link.run(
            lambda: [
                ERASE.call(
                    [*self._session_keys(session_id), *self._judging_keys(shard, session_id)],
                    session_id,
                    self._settings.click_log_max_entries_per_shard,
                )
            ],
            kept=True,
        )
        deleted, number = value(reply)
        self._tail.acknowledged(shard, number)
        return bool(deleted > 0)

    async def trending(self, limit: int) -> list[tuple[str, float]]:
        """The items that most sessions clicked, decayed to now, merged over the shards, highest score first.

        A shard answers with its own top `limit`: sessions are spread evenly, so what it leaves out is far
        from the merged top. One shard after the other, so that nobody is busy with it for long.
        """
        scores: defaultdict[str, float] = defaultdict(float)
        shard = 0
        while shard < self._link.shards:
            (reply,) = await self._link.run(
                lambda shard=shard: [TRENDING.call(self._keys.trending(shard), limit)]  # type: ignore[misc]
            )
            decay, found = value(reply)
            _add(scores, found, float(decay))
            shard += 1
        return _highest(scores, limit)

    async def co_clicks(self, item_id: str, limit: int) -> list[tuple[str, float]]:
        """What else sessions with a cold item clicked, and how many of them, the most frequent first."""
        replies = await self._link.run(
            lambda: [
                ("ZREVRANGE", self._keys.co_clicks(shard, item_id), 0, 2 * limit - 1, "WITHSCORES")
                for shard in range(self._link.shards)
            ]
        )
        scores: defaultdict[str, float] = defaultdict(float)
        for reply in replies:
            _add(scores, value(reply), 1.0)
        return _highest(scores, limit)

    async def remember(
        self,
        session_id: str,
        recommendation_id: str,
        version: str,
        item_ids: Sequence[str],
        *,
        given_on: str = "",
        beside: bool = False,
        placement: str = "",
    ) -> None:
        """Keep what was shown until the session's next click judges it, in place of what was kept before.

        `given_on`: the session's newest item then; a click on that judges nothing.
        `beside`: another version's items for that same answer; dropped if the answer is judged already.
        `placement`: where it was shown, which is judged as well.
        """
        shown, window = SEPARATOR.join(item_ids), self._settings.quality_window_seconds
        answer = recommendation_id + SEPARATOR + given_on
        (reply,) = await self._link.run(
            lambda: [
                REMEMBER.call(
                    [self._keys.shown(self._shard(session_id), session_id)],
                    *(answer, version, shown, window, int(beside), of_placement(placement)),
                )
            ]
        )
        value(reply)

    async def forget_quality(self, names: Sequence[str]) -> None:
        """Delete how the answers of some versions, or of placements, did."""
        replies = await self._link.run(
            lambda: [
                ("DEL", self._keys.quality(shard, name))
                for name in names
                for shard in range(self._link.shards)
            ]
        )
        for reply in replies:
            value(reply)

    async def quality(self, versions: Sequence[str]) -> dict[str, Quality]:
        """How each version's answers did; of a placement's, by `of_placement`."""
        replies = await self._link.run(
            lambda: [
                (
                    "HMGET",
                    self._keys.quality(shard, version),
                    "judged",
                    "hits",
                    "reciprocal_ranks",
                    "feedback",
                    "spread",
                )
                for version in versions
                for shard in range(self._link.shards)
            ]
        )
        found: dict[str, Quality] = {}
        shards = self._link.shards
        for place, version in enumerate(versions):
            of_version = [value(reply) for reply in replies[place * shards : (place + 1) * shards]]
            *counts, spreads = zip(*of_version, strict=True)
            judged, hits, ranks, feedback = (sum(float(number or 0) for number in each) for each in counts)
            sums = zip(*(map(float, each.split()) for each in spreads if each), strict=True)
            spread = Spread(*map(sum, sums))
            found[version] = Quality(int(judged), int(hits), ranks, int(feedback), spread)
        return found

    async def click_log(self) -> LogState:
        """How full the click log is, and how far the collector is behind."""
        replies = await self._link.run(
            lambda: [
                CLICK_LOG.call(
                    [self._keys.click_log(shard), self._keys.sequence(shard), self._keys.collected(shard)]
                )
                for shard in range(self._link.shards)
            ]
        )
        shards = [value(reply) for reply in replies]
        return LogState(
            entries=sum(entries for entries, *_ in shards),
            fill_ratio=max(entries for entries, *_ in shards)
            / self._settings.click_log_max_entries_per_shard,
            uncollected=sum(last - collected for _, last, collected, _ in shards),
            lag_seconds=max(0, *(age for *_, age in shards)) / 1000,
        )

    async def take_tokens(self, buckets: Sequence[Bucket], cost: int = 1) -> Wait | None:
        """Count a request over all workers, in every bucket or, if one of them is empty, in none.

        As much as `per_minute` may pass at once; the allowance comes back evenly over a minute. `cost`: for
        so many requests it counts. What costs more than the limit passes alone, and is paid off later.
        """
        names = [self._keys.rate(bucket.name) for bucket in buckets]
        limits = [bucket.per_minute for bucket in buckets]
        (reply,) = await self._link.run(lambda: [TAKE_TOKENS.call(names, cost, *limits)])
        seconds, of = value(reply)
        return Wait(float(seconds), buckets[of - 1]) if of else None

    async def try_key(
        self, caller: str, address: str, wrong_per_minute: int, *, is_right: bool, label: str | None = None
    ) -> float:
        """Count a key that an address has sent: 0.0 when it may be told whether it is right, else the wait.

        Once an address has sent too many wrong ones, it is told of none, unless it is one that has sent the
        right key before. `label`: which of the right ones it was, where there are several.
        """
        names = [
            self._keys.rate(f"wrong:{caller}:{address}"),
            self._keys.rate(f"right:{label or caller}:{address}"),
        ]
        (reply,) = await self._link.run(
            lambda: [TRY_KEY.call(names, wrong_per_minute, int(is_right), RIGHT_KEY_SECONDS)]
        )
        return float(value(reply))

    async def ping(self) -> None:
        """Return once Redis has answered."""
        (reply,) = await self._link.run(lambda: [("PING",)])
        value(reply)

    async def check_writable(self) -> None:
        """Return once Redis has answered, and would have written; it changes nothing.

        Of a cluster, every master that has a shard.
        """
        replies = await self._link.run(
            lambda: [
                ("SET", self._keys.shards, self._link.shards, "NX"),
                *(
                    ("SET", self._keys.nothing(shard), "", "XX")
                    for shard in range(self._link.shards if self._link.masters > 1 else 0)
                ),
            ]
        )
        for reply in replies:
            value(reply)

    async def close(self) -> None:
        """Close every connection."""
        await self._link.close()

    def _append(self, arrival: Arrival, *, with_session: bool) -> Command:
        session_id, click, recommendation_id, version, is_cold, is_ignored = arrival
        shard, settings = self._shard(session_id), self._settings
        feeds = click.type in self._encoder_click_types
        return APPEND.call(
            [
                *self._session_keys(session_id),
                *self._keys.trending(shard),
                *self._judging_keys(shard, session_id),
                self._keys.quality(shard),
                self._keys.cold(shard),
                self._keys.co_clicks(shard),
            ],
            _pack(
                Appending(
                    session_id,
                    click.item_id,
                    repr(float(click.timestamp)),
                    click.type,
                    click.event_id or "",
                    recommendation_id or "",
                    version or "",
                    feeds,
                    feeds and not is_ignored,
                    is_cold,
                    with_session,
                    settings.session_max_clicks,
                    settings.session_max_event_ids,
                    settings.session_max_logged,
                    settings.session_ttl_seconds,
                    settings.click_log_max_entries_per_shard,
                    settings.trending_half_life_seconds,
                    settings.trending_max_items,
                    settings.cold_max_items,
                    settings.cold_max_neighbours,
                )
            ),
        )

    def _appended(self, arrival: Arrival, reply: Reply) -> Appended:
        length, duplicate, members, judged, number = reply
        self._tail.acknowledged(self._shard(arrival.session_id), number)
        pairs = zip(judged[::2], judged[1::2], strict=True)
        return Appended(length, bool(duplicate), _clicks(members), tuple(Judged(*pair) for pair in pairs))

    def _shard(self, session_id: str) -> int:
        return self._keys.shard_of(session_id, self._link.shards)

    def _session_keys(self, session_id: str) -> list[str]:
        shard = self._shard(session_id)
        names = (self._keys.session(shard, session_id), self._keys.marks(shard, session_id))
        return [*names, self._keys.click_log(shard), self._keys.sequence(shard)]

    def _judging_keys(self, shard: int, session_id: str) -> list[str]:
        return [self._keys.shown(shard, session_id), self._keys.judged(shard, session_id)]


def of_placement(name: str) -> str:
    """What the quality of a placement is kept under, beside that of versions; '' for none."""
    return f"{PLACEMENT}{name}" if name else ""


def _add(scores: defaultdict[str, float], found: Sequence[str], factor: float) -> None:
    """Add a shard's flat [item, score, ...]."""
    for item_id, score in zip(found[::2], found[1::2], strict=True):
        scores[item_id] += float(score) * factor


def _highest(scores: Mapping[str, float], limit: int) -> list[tuple[str, float]]:
    return heapq.nsmallest(limit, scores.items(), key=lambda entry: (-entry[1], entry[0]))


def _clicks(members: Sequence[str]) -> tuple[Click, ...]:
    clicks = []
    for member in members:
        _, timestamp, click_type, event_id, item_id = member.split(SEPARATOR)
        clicks.append(Click(item_id, float(timestamp), click_type, event_id or None))
    return tuple(clicks)
