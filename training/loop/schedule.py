"""Follows a cron expression: runs a command when it is due, and remembers the last run over restarts."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from service.live.deployment import replace_file
from training.loop.cron import Cron, ScheduleError

DEFAULT_COMMAND = ("run", "--config", "retrain.toml")
LOOK_SECONDS = 60.0  # at the clock: it may be set, or the machine may have slept

Missed = Literal["run", "skip"]


class AlreadyScheduledError(ScheduleError):
    """Another process follows a schedule for the same command."""


class LastRun(BaseModel):
    """What is remembered of a run; it has no end while it is under way, nor when it was cut off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[str, ...]
    scheduled: AwareDatetime
    started: AwareDatetime
    ended: AwareDatetime | None = None
    exit_code: int | None = None


@dataclass(frozen=True)
class Schedule:
    """A command and when it is due. What waits, runs and tells the time is given."""

    cron: Cron
    command: tuple[str, ...]
    file: Path  # the last run
    clock: Callable[[], datetime]  # aware
    wait: Callable[[float], bool]  # seconds, less are allowed; whether it is time to stop
    run: Callable[[Sequence[str]], int | None]  # the exit code; None: cut off, as it is time to stop
    say: Callable[[str], None]

    def follow(self, missed: Missed) -> None:
        """Run the command whenever it is due, until it is time to stop. Raises `ScheduleError`."""
        due = self._missed() if missed == "run" else None
        if due is None:
            due = self._next()
        while not self._wait_until(due) and self._run(due):
            due = self._next()

    def _missed(self) -> datetime | None:
        """The scheduled time that nobody was there for, or whose run was cut off."""
        last = read_last_run(self.file)
        if last is None:
            return None
        if last.ended is None:
            self.say(f"the run of {self._local(last.scheduled)} was cut off: run again")
            return last.scheduled
        due = self.cron.next_after(last.ended)
        if due > self.clock():
            return None
        self.say(f"the run of {self._local(due)} was missed: run now")
        return due

    def _next(self) -> datetime:
        due = self.cron.next_after(self.clock())
        self.say(f"next run at {self._local(due)}")
        return due

    def _wait_until(self, due: datetime) -> bool:
        while (rest := (due - self.clock()).total_seconds()) > 0:
            if self.wait(min(rest, LOOK_SECONDS)):
                return True
        return self.wait(0)

    def _run(self, due: datetime) -> bool:
        """Run the command; whether it came to its end."""
        run = LastRun(command=self.command, scheduled=due, started=self.clock())
        self._remember(run)
        self.say("started")
        exit_code = self.run(self.command)
        if exit_code is None:
            self.say("cut off")
            return False
        ended = self.clock()
        self._remember(run.model_copy(update={"ended": ended, "exit_code": exit_code}))
        outcome = "done" if exit_code == 0 else f"FAILED with exit code {exit_code}"
        self.say(f"{outcome} after {(ended - run.started).total_seconds():.0f} s")
        if left_out := self._due_between(run.started, ended):
            self.say(f"{left_out} scheduled times passed meanwhile and are left out")
        return True

    def _due_between(self, after: datetime, until: datetime) -> int:
        count, due = 0, self.cron.next_after(after)
        while due <= until:
            count, due = count + 1, self.cron.next_after(due)
        return count

    def _remember(self, run: LastRun) -> None:
        try:
            replace_file(self.file, run.model_dump_json(indent=2).encode() + b"\n")
        except OSError as error:
            raise ScheduleError(f"{self.file}: cannot be written: {error.strerror}") from error

    def _local(self, moment: datetime) -> str:
        return f"{moment.astimezone(self.cron.zone):%Y-%m-%d %H:%M %Z}"


def read_last_run(file: Path) -> LastRun | None:
    """The last run, if there was any. Raises `ScheduleError`."""
    try:
        return LastRun.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ScheduleError(f"{file}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"])) or "the file"
        raise ScheduleError(f"{file}: {place}: {detail['msg']}: delete the file to start afresh") from error


def utc_now() -> datetime:
    """The clock of every schedule that is no test's."""
    return datetime.now(UTC)


@contextmanager
def schedule_lock(artifacts: Path, command: Sequence[str]) -> Iterator[Path]:
    """The file for the last run of a command, which is ours alone for the while.

    Raises `AlreadyScheduledError`, or `ScheduleError` when it cannot be made.
    """
    file = artifacts / "schedule" / f"{command[0]}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_suffix(".lock").open("w")
    except OSError as error:
        raise ScheduleError(f"{file.parent}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyScheduledError(
                f"{file.parent}: `{command[0]}` is scheduled by another process already: stop that one first"
            ) from None
        yield file
