"""A schedule followed in made-up time, and by the real program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.waiting import DEADLINE_SECONDS, until
from training.__main__ import app
from training.loop.cron import Cron, ScheduleError
from training.loop.schedule import (
    AlreadyScheduledError,
    LastRun,
    Missed,
    Schedule,
    read_last_run,
    schedule_lock,
)

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
COMMAND = ("demo-store", "--sessions", "1")


class World:
    """Time that passes only by waiting and by running, up to a moment at which it is time to stop."""

    def __init__(self, now: datetime, until: datetime, takes: timedelta = MINUTE) -> None:
        self.now = now
        self.until = until
        self.takes = takes
        self.exit_codes: list[int | None] = []  # of the next runs; then 0
        self.commands: list[tuple[str, ...]] = []
        self.runs: list[datetime] = []
        self.waits: list[float] = []
        self.said: list[str] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += timedelta(seconds=seconds)
        return self.now >= self.until

    def run(self, command: Sequence[str]) -> int | None:
        self.commands.append(tuple(command))
        self.runs.append(self.now)
        self.now += self.takes
        return self.exit_codes.pop(0) if self.exit_codes else 0

    def follow(
        self, file: Path, expression: str, *, timezone: str = "UTC", missed: Missed = "run"
    ) -> list[datetime]:
        """Returns when the command was run."""
        Schedule(
            cron=Cron.parse(expression, timezone),
            command=COMMAND,
            file=file,
            clock=lambda: self.now,
            wait=self.wait,
            run=self.run,
            say=self.said.append,
        ).follow(missed)
        return self.runs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "demo-store.json"


def remember(file: Path, scheduled: datetime, ended: datetime | None) -> None:
    code = None if ended is None else 0
    last = LastRun(command=COMMAND, scheduled=scheduled, started=scheduled, ended=ended, exit_code=code)
    file.write_text(last.model_dump_json())


def test_a_command_runs_when_it_is_due(file: Path) -> None:
    world = World(MIDNIGHT, MIDNIGHT + 3 * DAY)
    assert world.follow(file, "0 3 * * *") == [MIDNIGHT + 3 * HOUR + n * DAY for n in range(3)]
    assert world.commands == [COMMAND] * 3
    assert read_last_run(file) == LastRun(
        command=COMMAND,
        scheduled=MIDNIGHT + 2 * DAY + 3 * HOUR,
        started=MIDNIGHT + 2 * DAY + 3 * HOUR,
        ended=MIDNIGHT + 2 * DAY + 3 * HOUR + MINUTE,
        exit_code=0,
    )


@pytest.mark.parametrize("night", [datetime(2026, 3, 29), datetime(2026, 10, 25)])
def test_a_nightly_run_comes_once_on_the_nights_the_clocks_change(file: Path, night: datetime) -> None:
    start = night.replace(tzinfo=UTC) - DAY
    world = World(start, start + 3 * DAY)
    world.follow(file, "30 2 * * *", timezone="Europe/Berlin")
    zone = Cron.parse("30 2 * * *", "Europe/Berlin").zone
    days = [run.astimezone(zone).date() for run in world.runs]
    assert days == [(start + n * DAY).date() for n in range(3)]


def test_times_that_pass_during_a_run_are_left_out(file: Path) -> None:
    world = World(MIDNIGHT, MIDNIGHT + 8 * HOUR, takes=2.5 * HOUR)
    assert world.follow(file, "0 * * * *") == [MIDNIGHT + 1 * HOUR, MIDNIGHT + 4 * HOUR, MIDNIGHT + 7 * HOUR]
    assert world.said.count("2 scheduled times passed meanwhile and are left out") == 3


def test_a_failed_run_is_told_and_the_next_one_comes(file: Path) -> None:
    world = World(MIDNIGHT, MIDNIGHT + DAY)
    world.exit_codes = [3]
    assert len(world.follow(file, "0 3 * * *")) == 1
    assert "FAILED with exit code 3 after 60 s" in world.said
    last = read_last_run(file)
    assert last is not None
    assert last.exit_code == 3

    world = World(MIDNIGHT + DAY, MIDNIGHT + 2 * DAY)
    assert world.follow(file, "0 3 * * *") == [MIDNIGHT + DAY + 3 * HOUR], "a failed run was not missed"


def test_a_first_start_waits_for_its_time(file: Path) -> None:
    world = World(MIDNIGHT + 10 * HOUR, MIDNIGHT + 20 * HOUR)
    assert world.follow(file, "0 3 * * *") == []
    assert read_last_run(file) is None


def test_a_run_that_was_missed_comes_at_once(file: Path) -> None:
    remember(file, MIDNIGHT + 3 * HOUR, MIDNIGHT + 4 * HOUR)
    started = MIDNIGHT + 4 * DAY + 10 * HOUR
    world = World(started, started + HOUR)
    assert world.follow(file, "0 3 * * *") == [started], "once, however many were missed"
    last = read_last_run(file)
    assert last is not None
    assert last.scheduled == MIDNIGHT + DAY + 3 * HOUR

    again = World(started + HOUR, started + 2 * HOUR)
    assert again.follow(file, "0 3 * * *") == [], "what was made up for is missed no more"


def test_a_run_that_was_missed_can_be_skipped(file: Path) -> None:
    remember(file, MIDNIGHT + 3 * HOUR, MIDNIGHT + 4 * HOUR)
    world = World(MIDNIGHT + 34 * HOUR, MIDNIGHT + 60 * HOUR)
    assert world.follow(file, "0 3 * * *", missed="skip") == [MIDNIGHT + 2 * DAY + 3 * HOUR]


def test_nothing_was_missed_when_no_time_passed_since_the_last_run(file: Path) -> None:
    """Nor were those that passed while it ran."""
    remember(file, MIDNIGHT + 1 * HOUR, MIDNIGHT + 4 * HOUR + 10 * MINUTE)
    world = World(MIDNIGHT + 4 * HOUR + 30 * MINUTE, MIDNIGHT + 5.5 * HOUR)
    assert world.follow(file, "0 * * * *") == [MIDNIGHT + 5 * HOUR]


def test_a_run_that_was_cut_off_counts_as_missed(file: Path) -> None:
    world = World(MIDNIGHT, MIDNIGHT + DAY)
    world.exit_codes = [None]
    assert world.follow(file, "0 3 * * *") == [MIDNIGHT + 3 * HOUR]
    last = read_last_run(file)
    assert last is not None
    assert (last.started, last.ended, last.exit_code) == (MIDNIGHT + 3 * HOUR, None, None)

    skipping = World(MIDNIGHT + 4 * HOUR, MIDNIGHT + 5 * HOUR)
    assert skipping.follow(file, "0 3 * * *", missed="skip") == []
    again = World(MIDNIGHT + 4 * HOUR, MIDNIGHT + 5 * HOUR)
    assert again.follow(file, "0 3 * * *") == [MIDNIGHT + 4 * HOUR]


def test_a_run_that_is_killed_with_its_scheduler_counts_as_missed(file: Path) -> None:
    """The record is there before the run is."""
    world = World(MIDNIGHT, MIDNIGHT + DAY)
    seen: list[LastRun | None] = []

    def run(command: Sequence[str]) -> int | None:
        seen.append(read_last_run(file))
        return World.run(world, command)

    Schedule(
        Cron.parse("0 3 * * *", "UTC"), COMMAND, file, lambda: world.now, world.wait, run, world.said.append
    ).follow("run")
    assert seen == [
        LastRun(command=COMMAND, scheduled=MIDNIGHT + 3 * HOUR, started=MIDNIGHT + 3 * HOUR, ended=None)
    ]


def test_a_machine_that_slept_runs_what_came_due(file: Path) -> None:
    world = World(MIDNIGHT, MIDNIGHT + DAY)
    slept = 0

    def wait(seconds: float) -> bool:
        nonlocal slept
        slept += 1
        return World.wait(world, 7 * 3600 if slept == 5 else seconds)

    Schedule(
        Cron.parse("0 3 * * *", "UTC"), COMMAND, file, lambda: world.now, wait, world.run, world.said.append
    ).follow("run")
    assert world.runs == [MIDNIGHT + 7 * HOUR + 4 * MINUTE]
    assert max(world.waits[:4]) <= 60, "the clock is looked at once a minute"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "Invalid JSON"), ('{"command": ["run"], "scheduled": "yesterday"}', "scheduled: ")],
)
def test_a_damaged_record_is_refused_by_name(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    world = World(MIDNIGHT, MIDNIGHT + DAY)
    with pytest.raises(ScheduleError, match="delete the file to start afresh") as refused:
        world.follow(file, "0 3 * * *")
    assert str(file) in str(refused.value)
    assert message in str(refused.value)
    assert world.runs == []


def test_a_command_has_one_schedule(artifacts: Path) -> None:
    with schedule_lock(artifacts, COMMAND) as mine, schedule_lock(artifacts, ("collect",)) as another:
        assert (mine.name, another.name) == ("demo-store.json", "collect.json")
        with pytest.raises(AlreadyScheduledError, match="`demo-store` is scheduled by another process"):
            schedule_lock(artifacts, COMMAND).__enter__()
    with schedule_lock(artifacts, COMMAND):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cron", "0 3 * * 8"], "weekday '8': takes 0-7"),
        (["--cron", "0 3 * * *", "--timezone", "Mars"], "--timezone 'Mars'"),
        (["--cron", "0 3 * * *", "--", "recolect"], "'recolect': there is no such command"),
        (["--cron", "0 3 * * *", "--", "publish"], "Missing option '--bundle'"),
        (["--cron", "0 3 * * *", "--", "models", "--n-itemz", "3"], "No such option: --n-itemz"),
    ],
)
def test_wrong_input_is_refused_before_it_is_due(artifacts: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["schedule", "--artifacts", str(artifacts), *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert list(artifacts.iterdir()) == []


class Scheduler:
    """The real program, on a schedule that will not come due while a test runs."""

    def __init__(self, artifacts: Path, *command: str) -> None:
        self._log = artifacts.parent / "log"
        yesterday = (datetime.now(UTC) - DAY).strftime("%M %H %d %m *")
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "training", "schedule", "--cron", yesterday),
                    *("--artifacts", str(artifacts), "--", *command),
                ],
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def says(self, text: str) -> str:
        """All it said, once that contains `text`."""
        until(
            lambda: text in self._log.read_text() or self.process.poll() is not None,
            lambda: f"does not say {text!r}: {self._log.read_text()}",
        )
        said = self._log.read_text()
        assert text in said, said
        return said

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code, told to end."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)

    def child(self) -> int:
        """The process that it started."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until(lambda: bool(children.read_text()), lambda: "no child was started")
        return int(children.read_text().split()[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_schedule_ends_when_it_is_told_to(artifacts: Path, number: signal.Signals) -> None:
    with Scheduler(artifacts, "models") as scheduler:
        scheduler.says("next run at")
        assert scheduler.end(number) == 0
        assert (artifacts.parent / "log").read_text().endswith("models: stopped\n")


def test_a_schedule_runs_its_command_remembers_and_is_alone(artifacts: Path) -> None:
    with schedule_lock(artifacts, COMMAND) as file:
        remember(file, MIDNIGHT, None)
    clicks = artifacts / "clicks.csv"
    with Scheduler(artifacts, "demo-store", "--sessions", "20", "--output", str(clicks)) as scheduler:
        said = scheduler.says("next run at")
        refused = CliRunner().invoke(
            app, ["schedule", "--cron", "0 3 * * *", "--artifacts", str(artifacts), "--", *COMMAND]
        )
        assert scheduler.end() == 0
    assert said.index("was cut off: run again") < said.index("started") < said.index("done after")
    assert clicks.exists()
    last = read_last_run(file)
    assert last is not None
    assert (last.exit_code, last.scheduled) == (0, MIDNIGHT)
    assert refused.exit_code == 1
    assert "is scheduled by another process" in refused.output


def test_a_schedule_that_ends_in_mid_run_ends_the_run(artifacts: Path) -> None:
    with schedule_lock(artifacts, COMMAND) as file:
        remember(file, MIDNIGHT, None)
    os.mkfifo(artifacts / "clicks.csv")
    endless = ("demo-store", "--sessions", "20", "--output", str(artifacts / "clicks.csv"))  # nobody reads it
    with Scheduler(artifacts, *endless) as scheduler:
        scheduler.says("started")
        child = scheduler.child()
        assert scheduler.end() == 0
        assert "cut off" in scheduler.says("stopped")
    assert not Path(f"/proc/{child}").exists()
    last = read_last_run(file)
    assert last is not None
    assert (last.started > MIDNIGHT, last.ended) == (True, None)
