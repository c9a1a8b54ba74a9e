"""The names of everything in Redis. Keys of a shard share its hash tag: one Lua call may touch them all.

s:{17}:<session>             sorted set of the newest clicks, by timestamp, then by arrival
e:{17}:<session>             set of the event ids seen; lives as long as the session
clicks:{17}                  stream, the click log: seq, session, item, ts, type, event, rec (both '' when
                             none); or a tombstone: seq, session, erased
seq:{17}                     the last sequence number given in this shard's log: a gap is a lost entry
collected:{17}               what is collected of the log for good: '<stream id> <sequence number>'
trending:{17}, trending_t0:{17}  time-decayed click counts, and the origin and half-life they refer to
shards                       how many shards there are; set once
rate:<client>                one client's bucket of tokens
"""

from __future__ import annotations

import zlib

SHARDS = "shards"
DEPLOYMENT_CHANNEL = "nextclick:deployment"  # a message here says: read deployment.json again


def shard_of(session_id: str, shards: int) -> int:
    """Which of the shards holds a session; the same for ever."""
    return zlib.crc32(session_id.encode()) % shards


def session(shard: int, session_id: str) -> str:
    return f"s:{{{shard}}}:{session_id}"


def events(shard: int, session_id: str) -> str:
    return f"e:{{{shard}}}:{session_id}"


def click_log(shard: int) -> str:
    return f"clicks:{{{shard}}}"


def sequence(shard: int) -> str:
    return f"seq:{{{shard}}}"


def collected(shard: int) -> str:
    return f"collected:{{{shard}}}"


def shown(shard: int, session_id: str) -> str:
    return f"shown:{{{shard}}}:{session_id}"


def quality(shard: int, version: str = "") -> str:
    """Without a version, what such keys begin with."""
    return f"quality:{{{shard}}}:{version}"


def cold(shard: int) -> str:
    return f"cold:{{{shard}}}"


def co_clicks(shard: int, item_id: str = "") -> str:
    """Without an item, what such keys begin with."""
    return f"co:{{{shard}}}:{item_id}"


def trending(shard: int) -> list[str]:
    """The counts, and what they refer to."""
    return [f"trending:{{{shard}}}", f"trending_t0:{{{shard}}}"]
