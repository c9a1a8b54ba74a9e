"""The live loop, from collected clicks to tomorrow's model: schedule."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperGroup

from training.model_commands import ArtifactsOption

app = typer.Typer(no_args_is_help=True)


@app.command()
def schedule(
    context: typer.Context,
    cron: Annotated[
        str,
        typer.Option(
            metavar="'M H D M W'",
            help="When: minute, hour, day of month, month, weekday. Weekdays by name: mon-fri.",
        ),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="After --: any command of this program. [default: run --config retrain.toml]",
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
    A time that the clocks skip in spring comes right after; one that comes twice in autumn counts once.

    [bold]Examples[/bold]

    python -m training schedule --cron '0 3 * * *' --timezone Europe/Berlin

    python -m training schedule --cron '*/10 * * * *' -- collect
    """
    from training.cron import Cron, ScheduleError
    from training.runner import Runner
    from training.schedule import DEFAULT_COMMAND, AlreadyScheduledError, Schedule, place_of, utc_now

    words = tuple(command or DEFAULT_COMMAND)
    environment = {**os.environ, "NEXTCLICK_ARTIFACTS_DIR": str(artifacts)}

    def say(message: str) -> None:
        typer.echo(f"{utc_now().astimezone(times.zone):%Y-%m-%d %H:%M:%S} {words[0]}: {message}", err=True)

    try:
        times = Cron.parse(cron, timezone)
        _parse(context, words)
        with place_of(artifacts, words) as file, Runner(environment, say) as runner:
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
    from training.cron import ScheduleError

    program = context.find_root().command
    assert isinstance(program, TyperGroup)
    if words[0] not in program.commands:
        raise ScheduleError(f"{words[0]!r}: there is no such command; --help lists them all")
    program.commands[words[0]].make_context(words[0], list(words[1:]), context.find_root())
