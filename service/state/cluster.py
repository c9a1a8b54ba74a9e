"""A Redis Cluster: one link for each master, and for each command the one whose slot its key lies in.

What a server refuses with one of the words in `slots` has done nothing, and is sent again, elsewhere or a
moment later, until the call's deadline. Nothing else is: whoever lost its connection may have done it.

The map of slots is read from one of the servers at first, when a server names another one, and again and
again while one of the masters is not connected: its replica may have taken over meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol, cast

import structlog
from hiredis import ReplyError
from redis.exceptions import RedisError

from service.process import redis_url
from service.process.settings import Settings
from service.state.connection import Clock, Command, Connection, Deadline, Reply
from service.state.dialer import Dialer, Place
from service.state.keys import Keys
from service.state.link import (
    FIRST_PAUSE_SECONDS,
    PATIENCE,
    RedisLink,
    StoreUnavailable,
    agreed_shards,
    in_vain,
    number_of_shards,
    pause,
    refusal,
)
from service.state.refusals import Refusals
from service.state.script import Script
from service.state.slots import (
    NOT_SERVED,
    SLOTS,
    Range,
    is_undone,
    place_named,
    ranges_of,
    slot_of,
    slot_of_command,
)
from service.state.tail import RUN, Tail

RETRY_SECONDS = 0.002  # before what the cluster was not ready for is sent again, doubled each time
IDLE_SECONDS = 30.0  # a server that has no slots, and was asked for none this long, is left

log = structlog.get_logger()


class Link(Protocol):
    """What the stores ask of a Redis, or of a cluster."""

    shards: int

    @property
    def masters(self) -> int:
        """How many servers there are to write to."""

    @property
    def is_connected(self) -> bool:
        """Whether a call would be sent at once, to whichever of them."""

    async def run(
        self,
        commands: Callable[[], list[Command]],
        *,
        kept: bool = False,
        timeout_seconds: float | None = None,
    ) -> list[Reply]: ...

    async def close(self) -> None: ...


def link_to(
    settings: Settings,
    url: str,
    scripts: Sequence[Script],
    *,
    tail: Tail | None = None,
    warns: bool = True,
    clock: Clock | None = None,
) -> Link:
    """The link that a URL asks for."""
    if redis_url.parse(url).cluster is not None:
        return ClusterLink(settings, url, scripts, tail=tail, warns=warns, clock=clock)
    return RedisLink(settings, url, scripts, tail=tail, warns=warns, clock=clock)


class Master(RedisLink):
    """The link to one server of a cluster. It does not look for another one: its cluster does."""

    def __init__(
        self,
        settings: Settings,
        url: str,
        scripts: Sequence[Script],
        place: Place,
        dialer: Dialer,
        *,
        tail: Tail | None,
        warns: bool,
        clock: Clock | None,
        wait_ms: int | None,
        shards: Callable[[Place], list[int]],
        on_loss: Callable[[], None],
    ) -> None:
        """`shards`: which of them a place has; `on_loss`: called whenever another connection is needed."""
        super().__init__(settings, url, scripts, tail=tail, warns=warns, clock=clock, wait_ms=wait_ms)
        self.place = place
        self.writes = self  # the link that writes go by
        self.used_at = 0.0  # by somebody who was told to ask it
        self._dialer = dialer
        self._shards_of = shards
        self._on_loss = on_loss
        self._shown_url = f"{self._url.shown} at {place[0]}:{place[1]}"
        self._refusals = Refusals(self._shown_url)

    def connect(self, clock: Clock) -> None:
        """Open the connection before anybody asks."""
        if self._connection is None:
            super()._open(clock)

    def retire(self) -> None:
        """Take no more calls; those under way keep their deadlines."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            self._connection.retire()
        self._wake()

    async def compare(self, shards: Sequence[int]) -> None:
        """Ask whether all of some shards is there, that lay elsewhere before."""
        if self._tail is not None and self._connection is not None and self._connection.is_open:
            (told,) = await self._connection.call([RUN])
            await self._tail.compare(self._connection, told, shards)

    def _open(self, clock: Clock) -> None:
        super()._open(clock)
        self._on_loss()

    def _refused(self, batch: Sequence[Command], replies: Sequence[Reply], clock: Clock) -> None:
        done = [pair for pair in zip(batch, replies, strict=True) if not is_undone(pair[1])]
        if done:
            super()._refused(*cast("tuple[list[Command], list[Reply]]", zip(*done, strict=True)), clock)

    async def _dial(self, connection: Connection) -> None:
        await self._dialer.dial(connection, self.place)

    async def _prepare(self, connection: Connection) -> None:
        """Load the scripts, look at how safe the data is; the number of shards lies with one of them only."""
        (run,), check = await self._asked(connection, RUN)
        check()
        if self._tail is not None:
            await self._tail.compare(connection, run, self._shards_of(self.place))


class ClusterLink:
    """Like `RedisLink`, over all masters of a cluster; the deadline of a call holds for all that it takes.

    With `durability=strict` writes go by connections of their own, where each is followed by WAIT, which
    would hold up those who read.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        scripts: Sequence[Script],
        *,
        tail: Tail | None = None,
        warns: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self.shards = settings.shards
        self.timeout_seconds = settings.redis_timeout_seconds
        self._settings = settings
        self._text = url
        self._scripts = scripts
        self._tail = tail
        self._warns = warns
        self._clock = clock
        self._url = redis_url.parse(url)
        self._seeds = self._url.cluster or ()
        self._dialer = Dialer(self._url, settings.redis_connect_timeout_seconds)
        self._keys = Keys(settings.redis_prefix)
        self._owners: list[Master | None] = []  # of each slot, once a map was read
        self._masters: dict[Place, Master] = {}
        self._reading: asyncio.Task[None] | None = None  # of the map
        self._watching: asyncio.Task[None] | None = None
        self._tries = 0  # to read the map, since that went well
        self._failure = ""  # of the last of them
        self._is_closed = False
        self._is_warned = False

    @property
    def masters(self) -> int:
        return len({master.place for master in self._owners if master is not None})

    async def close(self) -> None:
        """Close all connections, for good."""
        self._is_closed = True
        for task in (self._watching, self._reading):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, StoreUnavailable):
                    await task
        for master in self._masters.values():
            for link in {master, master.writes}:
                await link.close()

    async def run(
        self,
        commands: Callable[[], list[Command]],
        *,
        kept: bool = False,
        timeout_seconds: float | None = None,
    ) -> list[Reply]:
        """See `RedisLink.run`. Of commands to several masters, those to one that fails reply with its error.

        Commands keep their order but where some are sent again: these are behind the others then.
        """
        clock = self._clock or asyncio.get_running_loop()
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = clock.time() + seconds
        if not self._owners:
            await self._first_map(clock, deadline, seconds)
        batch = commands()
        if len(batch) == 1:  # as nearly all are
            master = self._owners[slot_of_command(batch[0])]
            if master is not None:
                link = master.writes if kept else master
                replies = await link.run(lambda: batch[:], kept=kept, timeout_seconds=timeout_seconds)
                if type(replies[0]) is not ReplyError or not is_undone(replies[0]):
                    return replies
            else:
                replies = [NOT_SERVED]
            heard = {0: master}
        else:
            replies, heard = [None] * len(batch), {}
            await self._send(batch, range(len(batch)), replies, heard, kept, clock, deadline)
        return await self._until_done(batch, replies, heard, kept, clock, deadline)

    async def _until_done(
        self,
        batch: Sequence[Command],
        replies: list[Reply],
        heard: dict[int, Master | None],
        kept: bool,
        clock: Clock,
        deadline: float,
    ) -> list[Reply]:
        """Send again what has done nothing; `heard`: from whom."""
        wait, tries = RETRY_SECONDS, 0
        while undone := [i for i, reply in enumerate(replies) if is_undone(reply)]:
            words = {str(replies[i]).partition(" ")[0] for i in undone}
            if words & {"TRYAGAIN", "CLUSTERDOWN"} or tries > 1:
                if clock.time() + wait >= deadline:
                    in_vain(cast(StoreUnavailable, refusal(replies[undone[0]])))
                    break
                await pause(clock, wait)
                wait *= 2
            if "CLUSTERDOWN" in words:
                self._watch(clock)
            for i in undone:
                teller = heard[i]
                if teller is not None and (place := place_named(replies[i], teller.place, "MOVED")):
                    try:
                        await self._reread(place, clock, deadline)
                    except (StoreUnavailable, TimeoutError):
                        return replies
                    break
            await self._send(batch, undone, replies, heard, kept, clock, deadline)
            tries += 1
        return replies

    async def _send(
        self,
        batch: Sequence[Command],
        places: Iterable[int],
        replies: list[Reply],
        heard: dict[int, Master | None],
        kept: bool,
        clock: Clock,
        deadline: float,
    ) -> None:
        """Send some commands of a batch, each to whom it belongs, and note the replies and who gave them."""
        groups: defaultdict[tuple[Master, bool], list[int]] = defaultdict(list)
        for i in places:
            teller = heard.get(i)
            asked = teller and place_named(replies[i], teller.place, "ASK")
            if asked:
                master: Master | None = self._known(asked, clock)
            else:
                master = self._owners[slot_of_command(batch[i])]
            heard[i] = master
            if master is None:
                replies[i] = NOT_SERVED
            else:
                groups[master, asked is not None].append(i)
        seconds = max(deadline - clock.time(), 0.0)
        outcomes = await asyncio.gather(
            *(
                self._send_group(master, is_asking, [batch[i] for i in group], kept, seconds)
                for (master, is_asking), group in groups.items()
            ),
            return_exceptions=len(groups) > 1,
        )
        for group, outcome in zip(groups.values(), outcomes, strict=True):
            if isinstance(outcome, BaseException):
                if not isinstance(outcome, StoreUnavailable):
                    raise outcome
                outcome = [outcome] * len(group)
            for i, reply in zip(group, outcome, strict=True):
                replies[i] = reply

    async def _send_group(
        self, master: Master, is_asking: bool, commands: list[Command], kept: bool, seconds: float
    ) -> list[Reply]:
        sent = [each for command in commands for each in (("ASKING",), command)] if is_asking else commands
        link = master.writes if kept else master
        replies = await link.run(lambda: sent[:], kept=kept, timeout_seconds=seconds)
        return replies[1::2] if is_asking else replies

    async def _first_map(self, clock: Clock, deadline: float, seconds: float) -> None:
        patience = PATIENCE.get()
        if patience is not None and patience.spent_on is not None:
            raise StoreUnavailable(str(patience.spent_on), patience.spent_on.reason)
        try:
            await self._reread(None, clock, deadline)
        except TimeoutError:
            message = self._failure or f"no answer from {self._url.shown} within {seconds} s"
            raise in_vain(StoreUnavailable(message)) from None

    async def _reread(self, place: Place | None, clock: Clock, deadline: float) -> None:
        """Have the map read, from a place that was named. Raises `StoreUnavailable`, `TimeoutError`."""
        reading = self._begun(place, clock)
        async with Deadline(clock, deadline):
            await asyncio.wait({reading})
        if reading.cancelled():
            raise self._closed()
        reading.result()

    def _begun(self, place: Place | None, clock: Clock) -> asyncio.Task[None]:
        """The reading under way; one at a time is enough."""
        if self._is_closed:
            raise self._closed()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(place, clock))
            self._reading.add_done_callback(_heard)
        return self._reading

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self._url.shown}: the link is closed")

    def _watch(self, clock: Clock) -> None:
        """Read the map now and then until all is well."""
        if self._watching is None and not self._is_closed:
            self._watching = asyncio.get_running_loop().create_task(self._watch_until_well(clock))

    async def _watch_until_well(self, clock: Clock) -> None:
        seconds = FIRST_PAUSE_SECONDS
        try:
            while True:
                await pause(clock, seconds)
                seconds *= 2
                await asyncio.wait({self._begun(None, clock)})
                if self.is_connected:
                    return
        finally:
            self._watching = None

    @property
    def is_connected(self) -> bool:
        """Whether a call would be sent at once, to whichever of them."""
        return (
            bool(self._owners)
            and None not in self._owners
            and all(
                link.is_connected
                for master in set(self._owners)
                if master
                for link in (master, master.writes)
            )
        )

    async def _read(self, place: Place | None, clock: Clock) -> None:
        try:
            if self._tries:
                await pause(clock, FIRST_PAUSE_SECONDS * 2.0 ** min(self._tries - 1, 30))
            self._tries += 1
            try:
                ranges = await self._asked_around(place, clock)
                if not self._owners:
                    await self._agree_on_shards(ranges, clock)
            except (ReplyError, RedisError, OSError) as error:
                told = f"{self._url.shown}: {self._url.without_secrets(str(error))}"
                if self._failure != told:
                    log.error("no map of the redis cluster", reason=told)
                self._failure = told
                raise StoreUnavailable(told) from error
            if self._failure:
                log.info("the map of the redis cluster was read", redis=self._url.shown)
            self._failure, self._tries = "", 0
            await self._use(ranges, clock)
        finally:
            self._reading = None

    async def _asked_around(self, first: Place | None, clock: Clock) -> list[Range]:
        """What the first server says that answers. Raises `ReplyError`, `RedisError` or `OSError`."""
        connected = [place for place, master in self._masters.items() if master.is_connected]
        several = [*([first] if first else []), *connected, *self._masters, *self._seeds]
        places = list(dict.fromkeys(several))
        seconds = self._settings.redis_connect_timeout_seconds / len(places)
        for place in places:
            try:
                (answer,) = await self._call_once(place, [("CLUSTER", "SLOTS")], seconds, clock)
                if isinstance(answer, ReplyError):
                    raise answer
                if ranges := ranges_of(answer, place):
                    return ranges
                raise ConnectionError(f"{place[0]}:{place[1]} belongs to no cluster that has slots")
            except (ReplyError, RedisError, OSError) as error:
                failure = error
        raise failure

    async def _call_once(
        self, place: Place, commands: list[Command], seconds: float, clock: Clock
    ) -> list[Reply]:
        """The replies of a server, by a connection of its own. Raises `RedisError`, `OSError`."""
        connection = Connection(clock)
        try:
            async with Deadline(clock, clock.time() + seconds):
                await self._dialer.dial(connection, place)
                replies = await connection.call(commands)
        except TimeoutError:
            raise ConnectionError(f"no answer from {place[0]}:{place[1]} within {seconds:g} s") from None
        finally:
            connection.close()
        return replies

    async def _agree_on_shards(self, ranges: Sequence[Range], clock: Clock) -> None:
        slot = slot_of(self._keys.shards)
        owner = next((each.master for each in ranges if each.first <= slot <= each.last), None)
        if owner is None:
            raise NOT_SERVED
        seconds = self._settings.redis_connect_timeout_seconds
        replies = await self._call_once(owner, number_of_shards(self._settings), seconds, clock)
        self.shards = agreed_shards(replies, self._settings, _say)

    async def _use(self, ranges: Sequence[Range], clock: Clock) -> None:
        owners: list[Master | None] = [None] * SLOTS
        for first, last, place, _ in ranges:
            owners[first : last + 1] = [self._known(place, clock)] * (last + 1 - first)
        await self._compare_moved(owners)
        self._owners = owners
        self._warn_of_lone_masters(ranges)
        now = clock.time()
        for place, master in list(self._masters.items()):
            links = {master, master.writes}
            if master in owners:
                for link in links:
                    link.connect(clock)
            elif now - master.used_at > IDLE_SECONDS or not master.is_connected:
                del self._masters[place]
                for link in links:
                    link.retire()
        if not self.is_connected:
            self._watch(clock)

    async def _compare_moved(self, owners: Sequence[Master | None]) -> None:
        """Shards that another master has now, to which there is a connection already."""
        if not self._owners:
            return
        gained: defaultdict[Master, list[int]] = defaultdict(list)
        for shard in range(self.shards):
            slot = slot_of(self._keys.sequence(shard))
            owner = owners[slot]
            if owner is not None and owner is not self._owners[slot]:
                gained[owner].append(shard)
        for owner, shards in gained.items():
            with suppress(OSError, ReplyError):  # it is lost: the next connection asks
                await owner.compare(shards)

    def _known(self, place: Place, clock: Clock) -> Master:
        """The link to a server."""
        master = self._masters.get(place)
        if master is None:
            master = self._masters[place] = self._made(place, clock, wait_ms=None)
            if self._settings.durability == "strict":
                bound = max(1, int(self._settings.redis_timeout_seconds * 1000 / 2))
                master.writes = self._made(place, clock, wait_ms=bound)
        master.used_at = clock.time()
        return master

    def _made(self, place: Place, clock: Clock, wait_ms: int | None) -> Master:
        return Master(
            self._settings,
            self._text,
            self._scripts,
            place,
            self._dialer,
            tail=self._tail,
            warns=self._warns and wait_ms is None,
            clock=self._clock,
            wait_ms=wait_ms,
            shards=self._shards_of,
            on_loss=lambda: self._watch(clock),
        )

    def _shards_of(self, place: Place) -> list[int]:
        """The shards that a server has, by the map."""
        found = []
        for shard in range(self.shards) if self._owners else ():
            owner = self._owners[slot_of(self._keys.sequence(shard))]
            if owner is not None and owner.place == place:
                found.append(shard)
        return found

    def _warn_of_lone_masters(self, ranges: Sequence[Range]) -> None:
        if not self._warns or self._is_warned or self._settings.durability != "strict":
            return
        alone = sorted({f"{host}:{port}" for _, _, (host, port), replicas in ranges if not replicas})
        if alone:
            self._is_warned = True
            log.warning("durability=strict refuses clicks for masters without a replica", masters=alone)


def _say(say: Callable[..., object], event: str, **facts: object) -> None:
    say(event, **facts)


def _heard(reading: asyncio.Task[None]) -> None:
    """Whoever waited for it was told, if anybody did."""
    if not reading.cancelled():
        reading.exception()
