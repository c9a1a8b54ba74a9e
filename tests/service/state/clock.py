"""A clock that stands still until a test moves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class StillTimer:
    when: float
    call: Callable[[], object]
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


class StillClock:
    """What a connection asks for the time, in place of its event loop."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[StillTimer] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> StillTimer:
        timer = StillTimer(when, lambda: callback(*args))
        self._timers.append(timer)
        return timer

    def has_timer_at(self, when: float) -> bool:
        """Whether something is to happen just then."""
        return any(abs(timer.when - when) < 1e-9 and not timer.is_cancelled for timer in self._timers)

    def move_to(self, now: float) -> None:
        """Jump: timers that are due find that it is `now`, and may be late."""
        self._now = now
        while due := [timer for timer in self._timers if timer.when <= now and not timer.is_cancelled]:
            first = min(due, key=lambda timer: timer.when)
            self._timers.remove(first)
            first.call()
