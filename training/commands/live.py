"""The live loop, from collected clicks to tomorrow's model: collect, run, schedule, prune."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.core import TyperGroup

from training.commands.endings import INTERRUPTED, fail, reported, terminated
from training.commands.options import ArtifactsOption, JsonOption

if TYPE_CHECKING:
    from service.process.settings import Settings

app = typer.Typer(no_args_is_help=True)
ENDLESS = ("console", "demo", "serve")


@app.command(rich_help_panel="Data")
def collect(
    batch: Annotated[
        int, typer.Option(min=1, help="Entries of the log in memory, and in one commit.")
    ] = 200_000,
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """Take the clicks from the service's log into ARTIFACTS/clicks, each of them once.

    Whole days that are older than NEXTCLICK_CLICK_RETENTION_DAYS are deleted.

    Ends when it has all that was in the log when it began; it may be killed at any time, and run again. Which
    Redis it reads follows from the service's own NEXTCLICK_ settings; a private Redis is read whether the
    service runs or not. Exit code 1: another collection runs, Redis fails, or entries of the log are missing,
    which is said once, when everything else is collected.
    """
    from service.live.object_store import ObjectStoreError
    from service.process.settings import SettingsError
    from training.data.clicks import ClicksError
    from training.loop.collect import CollectError
    from training.loop.collect import collect as collect_clicks

    log_to_stderr()
    try:
        collected = collect_clicks(_service_settings(artifacts), batch=batch)
    except (ClicksError, SettingsError) as error:
        fail(str(error), code=2)
    except (CollectError, ObjectStoreError) as error:
        fail(str(error), code=1)
    totals, commit = collected.totals, collected.commit
    if json_:
        result = {
            "expired_days": collected.expired_days,
            "expired_clicks": collected.expired_clicks,
            "files": len(commit.files),
            "days": commit.days,
            "generation": commit.generation,
        }
        print(json.dumps({**totals.model_dump(), **result}))
    else:
        rejected = f", {totals.rejected:,} entries rejected" if totals.rejected else ""
        days = collected.expired_days
        expired = f", {days:,} old days with {collected.expired_clicks:,} clicks deleted" if days else ""
        print(
            f"{totals.clicks:,} clicks collected, {totals.duplicates:,} duplicates dropped, "
            f"{totals.erased_sessions:,} sessions erased{rejected}{expired}; "
            f"there are {len(commit.files):,} files of {commit.days:,} days"
        )
    if collected.gaps:
        back = sum(not gap.missing for gap in collected.gaps)
        restored = f", and {back} times it went back: it was restored or replaced" if back else ""
        fail(
            f"{totals.missing:,} entries of the click log are missing{restored}; all others are collected, "
            f"and {artifacts}/clicks/commit.json says where the gaps are",
            code=1,
        )


@app.command(rich_help_panel="Live")
def run(
    config: Annotated[Path, typer.Option(help="retrain.toml: it names every setting, with its default.")],
    new: Annotated[
        bool, typer.Option("--new", help="Begin a new run, even if the last one is unfinished.")
    ] = False,
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """Collect, prepare, train, evaluate, judge, publish: from today's clicks to the next live bundle.

    ARTIFACTS/runs/<id>/run.json tells of every step. A run that was killed, or failed, goes on where it was
    when the same command is given within 12 hours. Exit code 1: a check stopped it, the gate refused the new
    bundle, or entries of the click log are missing, which is said once and stops nothing. Whatever happens,
    the live bundle stays until another is published.
    """
    from training.loop.click_source import ClickSource, CollectedClicks, PartitionedClicks
    from training.loop.retrain import load_config
    from training.loop.run import run as make_run
    from training.report.watch import TerminalWatcher

    log_to_stderr()
    with reported(json_) as console, terminated():
        wanted, settings = load_config(config), _service_settings(artifacts)
        source: ClickSource = CollectedClicks(settings)
        if wanted.data.clicks:
            source = PartitionedClicks(wanted.data.clicks, CollectedClicks(settings), wanted.data.collected)
        try:
            with TerminalWatcher(console) as watcher:
                record = make_run(wanted, settings, source, watcher, new=new)
        except KeyboardInterrupt:
            console.print("interrupted; the same command goes on where it was")
            raise typer.Exit(INTERRUPTED) from None
        if json_:
            print(record.model_dump_json())
        else:
            told = f": {record.reason}" if record.reason else ""
            headline = f"{record.id}: {record.version} is {record.status}{told}"
            console.print(headline, markup=False, soft_wrap=True)
        collected = record.steps["collect"].outcome
        if collected and collected.get("gaps"):
            fail(
                f"{collected['missing']} entries of the click log are missing, or its numbers went back: "
                f"{artifacts}/clicks/commit.json says where; the run went on with all others",
                code=1,
            )
        if record.status != "published":
            raise typer.Exit(1)


@app.command(rich_help_panel="Live")
def schedule(
    context: typer.Context,
    cron: Annotated[
        str,
        typer.Option(
            metavar="'M H D M W'",
            help="When: minute, hour, day of month, month, weekday, as in a crontab.",
        ),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="After --: any command of this program that ends.",
            show_default="run --config retrain.toml",
        ),
    ] = None,
    timezone: Annotated[str, typer.Option(help="Of --cron, like Europe/Berlin.")] = "UTC",
    missed: Annotated[
        Literal["run", "skip"],
        typer.Option(help="At start: a run that was missed or cut off, at once or not at all."),
    ] = "run",
    artifacts: ArtifactsOption = Path("artifacts"),
) -> None:
    """Run a command whenever it is due, one at a time, with low priority, until SIGTERM.

    A run that fails is told, and the schedule goes on. The last run is remembered in ARTIFACTS/schedule/.
    Times are those of Unix's cron. One that the clocks skip in spring comes right after, and one that comes
    twice in autumn counts once, unless minute or hour begins with *: then the clocks are taken as they are.

    [bold]Examples[/bold]

    nextclick schedule --cron '0 3 * * *' --timezone Europe/Berlin

    nextclick schedule --cron '*/10 * * * *' -- collect
    """
    from training.loop.cron import Cron, ScheduleError
    from training.loop.runner import Runner
    from training.loop.schedule import (
        DEFAULT_COMMAND,
        AlreadyScheduledError,
        Schedule,
        schedule_lock,
        utc_now,
    )

    words = tuple(command or DEFAULT_COMMAND)
    environment = {**os.environ, "NEXTCLICK_ARTIFACTS_DIR": str(artifacts)}

    def say(message: str) -> None:
        typer.echo(f"{utc_now().astimezone(times.zone):%Y-%m-%d %H:%M:%S} {words[0]}: {message}", err=True)

    try:
        times = Cron.parse(cron, timezone)
        _parse(context, words)
        with schedule_lock(artifacts, words) as file, Runner(environment, say) as runner:
            say(f"`{shlex.join(words)}` at {cron!r}, {timezone}")
            Schedule(times, words, file, utc_now, runner.wait, runner.run, say).follow(missed)
            say("stopped")
    except AlreadyScheduledError as error:
        typer.secho(f"refused: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    except ScheduleError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from error
    if runner.killed:
        raise typer.Exit(1)


def _parse(context: typer.Context, words: tuple[str, ...]) -> None:
    """Refuse a command with wrong options now, not at three in the morning. Raises `ScheduleError`."""
    from training.loop.cron import ScheduleError

    program = context.find_root().command
    assert isinstance(program, TyperGroup)
    if words[0] in ENDLESS:
        raise ScheduleError(f"{words[0]!r} runs until it is stopped: a schedule is for commands that end")
    if words[0] not in program.commands:
        raise ScheduleError(f"{words[0]!r}: there is no such command; --help lists them all")
    program.commands[words[0]].make_context(words[0], list(words[1:]), context.find_root())


@app.command(rich_help_panel="Live")
def prune(
    keep: Annotated[int, typer.Option(min=0, help="How many of the newest stay, beside the deployed ones.")],
    config: Annotated[
        Path | None,
        typer.Option(help="retrain.toml, for its drift_days; default: those of the newest run."),
    ] = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """Delete bundles that are neither live nor on trial, nor the one before the live one.

    Those that the gate compares with, as they were live `drift_days` ago, stay too.
    """
    from service.live.artifacts import Artifacts
    from service.live.deployment import prune as prune_bundles
    from training.loop.retrain import load_config
    from training.loop.run_record import anchors, newest_drift_days

    with reported(json_) as console:
        days = load_config(config).gate.drift_days if config else newest_drift_days(artifacts)
        deleted = prune_bundles(Artifacts.at(artifacts), keep, anchors(artifacts, days))
        if json_:
            print(json.dumps({"deleted": deleted}))
        else:
            console.print(f"deleted: {', '.join(deleted) or 'none'}", markup=False)


def log_to_stderr() -> None:
    """Stdout is for what a command finds."""
    import structlog

    # Asked for anew with every line: sys.stderr may be another by then.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def _service_settings(artifacts: Path) -> Settings:
    """The service's settings, over these artifacts. Raises `SettingsError`."""
    from service.process.settings import load_settings

    return load_settings().model_copy(update={"artifacts_dir": artifacts})
