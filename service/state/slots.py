"""The slots of a Redis Cluster: which one a command's key lies in, and what its servers say of who has it.

Redis refuses a command with one of four words before it has done anything of it: MOVED and ASK name the
server to ask, for good or just this once; TRYAGAIN is said while the keys of one command are being moved, one
after the other; CLUSTERDOWN while nobody has the slot. These alone are safe to send again. The same words
inside the message of a script that has begun are not.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import NamedTuple

from hiredis import ReplyError

from service.state.connection import Command, Reply
from service.state.dialer import Place

SLOTS = 16384
NOT_SERVED = ReplyError("CLUSTERDOWN Hash slot not served")
_UNDONE = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN")


class Range(NamedTuple):
    """Slots that one master has, and how many replicas it has."""

    first: int
    last: int
    master: Place
    replicas: int


def slot_of(key: str) -> int:
    """Where a key lies: by its hash tag, what stands between its first braces, if something does."""
    begin = key.find("{")
    if begin >= 0:
        end = key.find("}", begin)
        if end > begin + 1:
            key = key[begin + 1 : end]
    return crc_hqx(key.encode(), 0) % SLOTS


def slot_of_command(command: Command) -> int:
    """Where a command's first key lies; one without keys may go anywhere."""
    if command[0] == "EVALSHA":
        return slot_of(str(command[3])) if command[2] else 0
    return slot_of(str(command[1])) if len(command) > 1 else 0


def is_undone(reply: Reply) -> bool:
    """Whether the command has surely done nothing, and may do so elsewhere, or later."""
    return type(reply) is ReplyError and str(reply).startswith(_UNDONE)


def place_named(reply: Reply, by: Place, word: str) -> Place | None:
    """The server that MOVED or ASK names; no host is that of whoever says so. None: it was another word."""
    said, _, rest = str(reply).partition(" ")
    if said != word:
        return None
    host, _, port = rest.partition(" ")[2].rpartition(":")
    return host.strip("[]") or by[0], int(port)


def ranges_of(answer: Sequence[Sequence[Reply]], asked: Place) -> list[Range]:
    """What CLUSTER SLOTS answers; masters that do not tell their host have that of whoever was asked."""
    return [
        Range(first, last, (master[0] or asked[0], master[1]), len(replicas))
        for first, last, master, *replicas in answer
    ]
