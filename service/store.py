"""The live state in Redis: sessions, the click log, what is trending, rate limits.

Each click is one atomic Lua call. Its keys share the hash tag of the session's shard, so the same call works
on a single Redis and on a cluster:

    s:{17}:<session>             sorted set of the newest clicks, by timestamp, then by arrival
    e:{17}:<session>             set of the event ids seen; lives as long as the session
    clicks:{17}                  stream, the click log: seq, session, item, ts, type, event ('' when none);
                                 or a tombstone: seq, session, erased
    seq:{17}                     the last sequence number given in this shard's log: a gap is a lost entry
    trending:{17}, trending_t0:{17}  time-decayed click counts, and the origin and half-life they refer to
    shards                       how many shards there are; set once
    rate:<client>                one client's bucket of tokens

    StoreError
    └── StoreUnavailable         down, hanging or refusing; outcome unknown: retry with the same event id
        └── ClickLogFull         refused at the click log's hard cap: nothing was changed
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service.settings import Settings, without_password

SEPARATOR = "\x1f"  # ids hold no control characters: the API refuses them

Command = tuple[str | int | float, ...]
Reply = Any  # whatever the command answers, or the `ResponseError` Redis answered instead

log = structlog.get_logger()


class StoreError(Exception):
    """The live state could not be read or changed."""


class StoreUnavailable(StoreError):  # noqa: N818
    """Redis is down, hangs, loads or refuses; whether the call took effect is unknown."""


class ClickLogFull(StoreUnavailable):
    """The click log is at its hard cap; nothing was changed."""


@dataclass(frozen=True)
class Click:
    """One click; `timestamp` is in epoch seconds."""

    item_id: str
    timestamp: float
    type: str = "click"
    event_id: str | None = None


@dataclass(frozen=True)
class Appended:
    """What a click left behind: the session's length; its clicks, oldest first, only when asked for."""

    length: int
    duplicate: bool
    clicks: tuple[Click, ...] = ()


class Script:
    """A Lua script beside this module, called by its hash."""

    def __init__(self, name: str) -> None:
        self.source = Path(__file__).with_name(name).read_text(encoding="utf-8")
        self._sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], *arguments: str | int | float) -> Command:
        return ("EVALSHA", self._sha, len(keys), *keys, *arguments)


APPEND = Script("append.lua")
ERASE = Script("erase.lua")
TRENDING = Script("trending.lua")
TAKE_TOKEN = Script("take_token.lua")
SCRIPTS = (APPEND, ERASE, TRENDING, TAKE_TOKEN)


class Deadline:
    """`asyncio.timeout` that does not blame Redis for a busy loop.

    A loop that was busy past the deadline runs its timers before it reads what has arrived meanwhile. So a
    deadline that passes lets the loop read first, and what then has its answer goes on.
    """

    ROUNDS = 3  # to read the socket, to hand the reply on, to wake its reader

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._timeout.__aenter__()
        self._handle: asyncio.Handle = self._loop.call_later(self._seconds, self._passed, self.ROUNDS)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _passed(self, rounds: int) -> None:
        if rounds:
            self._handle = self._loop.call_soon(self._passed, rounds - 1)
        else:
            self._timeout.reschedule(self._loop.time())


class SessionStore:
    """The live state, shared by every worker.

    Connects at the first call. Every call takes at most `redis_timeout_seconds`, from waiting for a
    connection to the last reply, and none is repeated: a click without an event id would count twice.

    Every method but `close` raises `StoreUnavailable`.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._shards = settings.shards
        self._url = without_password(url)
        self._meetings = 0
        self._meeting = asyncio.Lock()
        # No time-outs of the pool's own: one deadline covers a whole call, and a call cut short by it closes
        # its connection, so a late reply is never taken for the answer to another call. Protocol 2 without
        # driver info saves the round trips of a handshake.
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=settings.redis_max_connections,
            timeout=None,
            socket_timeout=None,
            socket_connect_timeout=None,
            decode_responses=True,
            protocol=2,
            driver_info=None,
        )

    async def append(self, session_id: str, click: Click, *, with_session: bool = False) -> Appended:
        """Store one click and log it, once per event id."""
        (reply,) = await self._run(lambda: [self._append(session_id, click, with_session=with_session)])
        return _appended(_value(reply))

    async def append_many(self, clicks: Sequence[tuple[str, Click]]) -> list[Appended | StoreUnavailable]:
        """Store many clicks in one round trip, in order; each is its own atomic step with its own outcome."""
        try:
            replies = await self._run(lambda: [self._append(*click, with_session=False) for click in clicks])
        except StoreUnavailable as error:
            return [error] * len(clicks)
        return [_refusal(r) if isinstance(r, ResponseError) else _appended(r) for r in replies]

    async def read(self, session_id: str) -> tuple[Click, ...]:
        """The session's clicks, oldest first; empty when it is unknown or has expired."""
        (reply,) = await self._run(lambda: [("ZRANGE", self._session_key(session_id), 0, -1)])
        return _clicks(_value(reply))

    async def erase(self, session_id: str) -> bool:
        """Delete a session; False when it was not known.

        A tombstone goes to the click log either way: clicks of an expired session may still be there.
        """
        (reply,) = await self._run(
            lambda: [
                ERASE.call(
                    self._session_keys(session_id), session_id, self._settings.click_log_max_entries_per_shard
                )
            ]
        )
        return bool(_value(reply) > 0)

    async def trending(self, limit: int) -> list[tuple[str, float]]:
        """The items clicked most, decayed to now and merged over the shards, highest score first.

        A shard answers with its own top 2 x `limit`: sessions are spread evenly, so what it leaves out is
        far from the merged top.
        """
        replies = await self._run(
            lambda: [TRENDING.call(self._trending_keys(shard), 2 * limit) for shard in range(self._shards)]
        )
        scores: defaultdict[str, float] = defaultdict(float)
        for found in map(_value, replies):
            for item_id, score in zip(found[::2], found[1::2], strict=True):
                scores[item_id] += float(score)
        return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]

    async def take_token(self, client: str, limit_per_minute: int) -> float:
        """Count one request of `client`, over all workers: 0.0 when it may pass, else the seconds to wait.

        A burst of `limit_per_minute` may pass at once; the allowance comes back evenly over a minute.
        """
        (reply,) = await self._run(lambda: [TAKE_TOKEN.call([f"rate:{client}"], limit_per_minute)])
        return float(_value(reply))

    async def ping(self) -> None:
        """Return once Redis has answered."""
        (reply,) = await self._run(lambda: [("PING",)])
        _value(reply)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    def _append(self, session_id: str, click: Click, *, with_session: bool) -> Command:
        shard = self._shard(session_id)
        settings = self._settings
        return APPEND.call(
            [*self._session_keys(session_id), *self._trending_keys(shard)],
            session_id,
            click.item_id,
            repr(float(click.timestamp)),  # the shortest text that reads back as exactly this number
            click.type,
            click.event_id or "",
            settings.session_max_clicks,
            settings.session_ttl_seconds,
            settings.click_log_max_entries_per_shard,
            settings.trending_half_life_seconds,
            settings.trending_max_items,
            int(with_session),
        )

    def _shard(self, session_id: str) -> int:
        return zlib.crc32(session_id.encode()) % self._shards

    def _session_key(self, session_id: str) -> str:
        return f"s:{{{self._shard(session_id)}}}:{session_id}"

    def _session_keys(self, session_id: str) -> list[str]:
        tag = f"{{{self._shard(session_id)}}}"
        return [f"s:{tag}:{session_id}", f"e:{tag}:{session_id}", f"clicks:{tag}", f"seq:{tag}"]

    def _trending_keys(self, shard: int) -> list[str]:
        return [f"trending:{{{shard}}}", f"trending_t0:{{{shard}}}"]

    async def _run(self, commands: Callable[[], list[Command]]) -> list[Reply]:
        """Send commands, made once the number of shards is known, and return one reply each."""
        timeout_seconds = self._settings.redis_timeout_seconds
        try:
            async with Deadline(timeout_seconds):
                if not self._meetings:
                    await self._meet(after=0)
                meetings = self._meetings
                replies = await self._exchange(commands())
                missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                if missing:  # Redis was restarted or replaced; a script that is not there has changed nothing
                    await self._meet(after=meetings)
                    batch = commands()
                    again = await self._exchange([batch[i] for i in missing])
                    for i, reply in zip(missing, again, strict=True):
                        replies[i] = reply
                return replies
        except TimeoutError:
            raise StoreUnavailable(f"no answer from {self._url} within {timeout_seconds} s") from None
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{self._url}: {error}") from error

    async def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            replies: list[Reply] = []
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    replies.append(error)
            return replies
        finally:
            await self._pool.release(connection)

    async def _meet(self, after: int) -> None:
        """First contact: load the scripts, agree on the number of shards, look at how safe the data is.

        Done once for all callers that wait for the meeting after number `after`.
        """
        async with self._meeting:
            if self._meetings > after:
                return
            stored, shards, policy, fsync, appendonly, *loaded = await self._exchange(
                [
                    ("SET", "shards", self._settings.shards, "NX"),
                    ("GET", "shards"),
                    ("CONFIG", "GET", "maxmemory-policy"),
                    ("CONFIG", "GET", "appendfsync"),
                    ("CONFIG", "GET", "appendonly"),
                    *(("SCRIPT", "LOAD", script.source) for script in SCRIPTS),
                ]
            )
            for reply in (shards or stored, *loaded):  # a full or read-only Redis may refuse to store it
                _value(reply)
            self._shards = int(shards)
            if self._shards != self._settings.shards:
                log.error(
                    "the number of shards is fixed in Redis: the stored one is used, not the configured one",
                    stored=self._shards,
                    configured=self._settings.shards,
                )
            self._warn_of_loss(policy, fsync, appendonly)
            self._meetings += 1

    def _warn_of_loss(self, policy: Reply, fsync: Reply, appendonly: Reply) -> None:
        if any(isinstance(reply, ResponseError) or not reply for reply in (policy, fsync, appendonly)):
            # Many a hosted Redis refuses CONFIG, or answers nothing.
            log.warning("Redis hides its configuration: how safe its data is was not checked")
            return
        if policy[1] != "noeviction":
            log.warning(
                "Redis may drop sessions and clicks: set maxmemory-policy noeviction", found=policy[1]
            )
        if self._settings.durability == "strict" and (fsync[1], appendonly[1]) != ("always", "yes"):
            log.warning(
                "durability=strict needs Redis with appendonly yes and appendfsync always",
                appendonly=appendonly[1],
                appendfsync=fsync[1],
            )


def _value(reply: Reply) -> Reply:
    if isinstance(reply, ResponseError):
        raise _refusal(reply)
    return reply


def _refusal(error: ResponseError) -> StoreUnavailable:
    message = str(error)
    if message.startswith("CLICKLOGFULL"):
        return ClickLogFull(message)
    return StoreUnavailable(f"Redis refused: {message}")


def _appended(reply: Reply) -> Appended:
    length, duplicate, members = reply
    return Appended(length, bool(duplicate), _clicks(members))


def _clicks(members: Sequence[str]) -> tuple[Click, ...]:
    clicks = []
    for member in members:
        _, timestamp, click_type, event_id, item_id = member.split(SEPARATOR)
        clicks.append(Click(item_id, float(timestamp), click_type, event_id or None))
    return tuple(clicks)
