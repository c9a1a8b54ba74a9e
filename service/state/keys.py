"""The names of everything in Redis; no key is made elsewhere, but by the script of `append`.

s:{17}:<session>       sorted set of the newest clicks, by timestamp, then by arrival
m:{17}:<session>       sorted set of a session's marks, lives as long as it: 'e<event id>' seen and 'i<item>'
                       counted, by the newest arrival number; '#' has minus the number of its clicks logged
                       (an earlier version kept event ids in a set e:{17}:<session>, which expires)
clicks:{17}            stream, the click log: seq, session, item, ts, type, event, rec (both '' when none);
                       or a tombstone: seq, session, erased
seq:{17}               the last sequence number given in this shard's log: a gap is a lost entry
resumed:{17}           hash of the run of Redis that goes on with the log: run, at (the number before), lost
collected:{17}         what is collected of the log for good: '<stream id> <sequence number>'
trending:{17}          sorted set of items by the sessions that clicked them, time-decayed
trending_t0:{17}       '<origin> <half-life>' that these counts refer to, in seconds
shown:{17}:<session>   hash of what the session was shown last: items by version, at ':id' the answer's id and
                       the item that it was given on, at ':placement' where and by which version, if in one;
                       lives until a click judges it, or for quality_window_seconds
judged:{17}:<session>  hash of what the session's clicks said so far: '<clicks> <hits> <reciprocal ranks>' by
                       version and @<placement>; lives as long as it is judged
quality:{17}:<version> hash of how a version's answers did: judged, hits, reciprocal_ranks, feedback, spread
                       (see judge.lua); under @<placement> of how those did that were shown in a placement
cold:{17}              sorted set of clicked items that no bundle knows, by their last click
co:{17}:<item>         sorted set of what sessions clicked beside such an item
items:{items}          hash of the catalogue: item id -> its JSON document
items_ids:{items}      sorted set of the ids of all items, by their bytes
items_changed:{items}  sorted set of items by the number of their newest change, deleted ones among them
items_gone:{items}     sorted set of deleted items by the same number, the newest of them
items_numbers:{items}  hash: last, the newest number; forgotten, that of the newest deletion no longer kept
items_batches:{items}  sorted set of random tokens of the newest batches of changes, by their last number
shards                 how many shards there are; set once
rate:{rate}:<bucket>   '<when a bucket of tokens is full again> <when that was written>', in microseconds: of
                       'address:<address>', of 'key:<caller>', of wrong keys 'wrong:<caller>:<address>'; and
                       'right:<caller>:<address>', the mark of an address that has sent the right key

Keys of a shard share its hash tag, and so lie in one slot of a cluster: one script may touch them all. A
cluster wants the keys of a call declared, to send the call where they are. `append` declares all but those of
`quality` and `co`: whose they are it reads itself, from `shown` and from the session. It declares what they
begin with, which has the same tag, and adds the version or the item.

NEXTCLICK_REDIS_PREFIX stands before each of these names, so that shops can share a Redis. It ends in one of
`_.:-`, so that the keys of `shop:` are none of those of `shop2:`.
"""

from __future__ import annotations

import zlib


class Keys:
    """The names of one shop's keys."""

    def __init__(self, prefix: str = "") -> None:
        self.shards = f"{prefix}shards"
        self._prefix = prefix

    @staticmethod
    def shard_of(session_id: str, shards: int) -> int:
        """Which of the shards holds a session; the same for ever."""
        return zlib.crc32(session_id.encode()) % shards

    def session(self, shard: int, session_id: str) -> str:
        return f"{self._prefix}s:{{{shard}}}:{session_id}"

    def marks(self, shard: int, session_id: str) -> str:
        return f"{self._prefix}m:{{{shard}}}:{session_id}"

    def click_log(self, shard: int) -> str:
        return f"{self._prefix}clicks:{{{shard}}}"

    def sequence(self, shard: int) -> str:
        return f"{self._prefix}seq:{{{shard}}}"

    def resumed(self, shard: int) -> str:
        return f"{self._prefix}resumed:{{{shard}}}"

    def collected(self, shard: int) -> str:
        return f"{self._prefix}collected:{{{shard}}}"

    def shown(self, shard: int, session_id: str) -> str:
        return f"{self._prefix}shown:{{{shard}}}:{session_id}"

    def judged(self, shard: int, session_id: str) -> str:
        return f"{self._prefix}judged:{{{shard}}}:{session_id}"

    def nothing(self, shard: int) -> str:
        """Never there, and in the shard's slot: to ask whether something could be written."""
        return f"{self._prefix}nothing:{{{shard}}}"

    def quality(self, shard: int, version: str = "") -> str:
        """Without a version, what such keys begin with."""
        return f"{self._prefix}quality:{{{shard}}}:{version}"

    def cold(self, shard: int) -> str:
        return f"{self._prefix}cold:{{{shard}}}"

    def co_clicks(self, shard: int, item_id: str = "") -> str:
        """Without an item, what such keys begin with."""
        return f"{self._prefix}co:{{{shard}}}:{item_id}"

    def trending(self, shard: int) -> list[str]:
        """The counts, and what they refer to."""
        return [f"{self._prefix}trending:{{{shard}}}", f"{self._prefix}trending_t0:{{{shard}}}"]

    def items(self, part: str = "") -> str:
        """The catalogue lies in one slot: a batch of its items is one step."""
        return f"{self._prefix}items{part}:{{items}}"

    def rate(self, bucket: str) -> str:
        """All of these lie in one slot: a request may take from several at once."""
        return f"{self._prefix}rate:{{rate}}:{bucket}"
