"""Why Redis refuses: what its error replies mean to clients, and a line in the log when that changes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import structlog
from hiredis import ReplyError

from service.state.connection import Command, Reply

NO_ANSWER = "Redis does not answer"
CLICK_LOG_FULL = "CLICKLOGFULL"
SESSION_FULL = "SESSIONFULL"
OURS = (CLICK_LOG_FULL, SESSION_FULL)  # said by our own script
_OTHERWISE = "Redis refused the call"
_REASONS = {
    "OOM": "Redis is full",
    "MISCONF": "Redis cannot save its data",
    "READONLY": "Redis is read-only",
    "NOREPLICAS": "Redis lacks replicas to write to",
    "MASTERDOWN": "Redis has lost its primary",
    "LOADING": "Redis is loading its data",
    "CLUSTERDOWN": "the Redis cluster is down",
    "TRYAGAIN": "the Redis cluster is moving these keys",
    "MOVED": "another server of the Redis cluster has these keys",
    "ASK": "the Redis cluster is moving these keys",
    "BUSY": "Redis is busy with a script",
    "NOPERM": "Redis does not permit it",
    "NOAUTH": "Redis asks for a password",
    "WRONGPASS": "Redis refused the password",
    "MAXCLIENTS": "Redis takes no more connections",
    "DENIED": "Redis is in protected mode",
}
# Whoever answers so is not, or not yet, the one to ask: the address may by now lead to another.
_ELSEWHERE = {"READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN"}
# Two in a row belong together: what happens to write nothing is no sign that writing works again.
CALM_SECONDS = 5.0

log = structlog.get_logger()


def code_of(message: str) -> str:
    """What kind of error it is. Redis before 7 wraps what a script met, and some errors are words only."""
    code = message.split(" ", 1)[0]
    if code != "ERR":
        return code
    if wrapped := re.search(r": -([A-Z]+) ", message):
        return wrapped[1]
    if "The user executing the script can't" in message:
        return "NOPERM"
    if "max number of clients" in message:
        return "MAXCLIENTS"
    return code


def without_arguments(message: str) -> str:
    """What Redis said, but not what it quotes of a command that it lacks: passwords, keys of sessions."""
    return message.partition(", with args beginning with")[0]


def reason_of(message: str) -> str:
    """The same in words fit for clients: nothing of the message itself."""
    return _REASONS.get(code_of(message), _OTHERWISE)


def is_elsewhere(reply: Reply) -> bool:
    """Whether another connection may find a Redis that does not refuse this."""
    return isinstance(reply, ReplyError) and code_of(str(reply)) in _ELSEWHERE


def is_unknown_script(reply: Reply) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")


class Refusals:
    """What is refused at present; true while there is something."""

    def __init__(self, shown_url: str) -> None:
        self._shown_url = shown_url
        self._commands: dict[str, set[object]] = {}  # refused with a code
        self._last: dict[str, float] = {}  # when that was

    def __bool__(self) -> bool:
        return bool(self._commands)

    def note(self, batch: Sequence[Command], replies: Sequence[Reply], now: float) -> None:
        """Learn from what Redis answered."""
        for command, reply in zip(batch, replies, strict=True):
            name = command[1] if command[0] == "EVALSHA" else command[0]
            if isinstance(reply, ReplyError):
                self._refused(name, str(reply), now)
            elif self._commands:
                self._accepted(name, now)

    def _refused(self, name: object, message: str, now: float) -> None:
        code = code_of(message)
        if code in OURS:
            return
        if code not in self._commands:
            log.error("redis refuses", redis=self._shown_url, code=code, reason=without_arguments(message))
        self._commands.setdefault(code, set()).add(name)
        self._last[code] = now

    def _accepted(self, name: object, now: float) -> None:
        for code, names in list(self._commands.items()):
            if name in names and now - self._last[code] >= CALM_SECONDS:
                del self._commands[code]
                log.info("redis accepts again", redis=self._shown_url, code=code)
