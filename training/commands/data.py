"""From click logs to a prepared data set: prepare, demo-store."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True)

Format = Literal["auto", "csv", "yoochoose", "diginetica", "retailrocket", "sessions", "clicks"]
TimeFormat = Literal["auto", "seconds", "milliseconds", "iso"]


def _share(text: str) -> float:
    """`1%` or `0.01`."""
    share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


_LOG = "The log"
_RULES = "Rules of the RSC15/GRU4Rec protocol, without --test"


@app.command(rich_help_panel="Data")
def prepare(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Option(
            "--input",
            metavar="PATH",
            help="Click log; may be repeated, the files make one log. With --format clicks, a directory.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The data set: a new directory.")],
    tests: Annotated[
        list[Path] | None,
        typer.Option(
            "--test",
            metavar="PATH",
            help="Test part of a log that is split already; then nothing is filtered.",
        ),
    ] = None,
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="auto, csv, yoochoose, diginetica, retailrocket, sessions or clicks."
            " csv: one click a row, with a header, separated by comma, tab, semicolon or bar, or Parquet;"
            " sessions: one session a line, needs --test; clicks: what `collect` wrote, ARTIFACTS/clicks, cut"
            " into sessions by --gap-minutes.",
            rich_help_panel=_LOG,
        ),
    ] = "auto",
    session_column: Annotated[str, typer.Option(help="csv only.", rich_help_panel=_LOG)] = "session_id",
    visitor_column: Annotated[
        str | None,
        typer.Option(
            help="csv only: instead of sessions, visitors; see --gap-minutes.", rich_help_panel=_LOG
        ),
    ] = None,
    item_column: Annotated[str, typer.Option(help="csv only.", rich_help_panel=_LOG)] = "item_id",
    time_column: Annotated[str, typer.Option(help="csv only.", rich_help_panel=_LOG)] = "timestamp",
    time_format: Annotated[
        TimeFormat,
        typer.Option(
            help="csv only: since 1970, or ISO-8601 (UTC if it does not say).", rich_help_panel=_LOG
        ),
    ] = "auto",
    events: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            metavar="NAME",
            help="retailrocket only: an event to keep; may be repeated.",
            show_default="view",
            rich_help_panel=_LOG,
        ),
    ] = None,
    gap_minutes: Annotated[
        float,
        typer.Option(
            min=0, help="A visitor's session ends with a longer pause than this.", rich_help_panel=_LOG
        ),
    ] = 30,
    max_rejected: Annotated[
        float,
        typer.Option(
            parser=_share,
            metavar="SHARE",
            help="Stop if more rows than this are no clicks.",
            rich_help_panel=_LOG,
        ),
    ] = "1%",  # type: ignore[assignment]
    min_session_length: Annotated[
        int,
        typer.Option(
            min=2, help="Drop shorter sessions, before and after the rare items.", rich_help_panel=_RULES
        ),
    ] = 2,
    min_item_support: Annotated[
        int, typer.Option(min=1, help="Drop items with fewer clicks.", rich_help_panel=_RULES)
    ] = 5,
    test_days: Annotated[
        float,
        typer.Option(
            min=0,
            help="Sessions whose last click is in the last days are for the test.",
            rich_help_panel=_RULES,
        ),
    ] = 1,
    drop_repeats: Annotated[
        bool,
        typer.Option(
            "--drop-repeats", help="First drop clicks that repeat the one before.", rich_help_panel=_RULES
        ),
    ] = False,
    until_stable: Annotated[
        bool,
        typer.Option(
            "--until-stable", help="Repeat the filters until they find nothing.", rich_help_panel=_RULES
        ),
    ] = False,
    cut_straddling: Annotated[
        bool,
        typer.Option(
            "--cut-straddling",
            help="Train on what a test session clicked before the last days began, and drop the rest of it.",
            rich_help_panel=_RULES,
        ),
    ] = False,
    validation: Annotated[
        float,
        typer.Option(parser=_share, metavar="SHARE", help="The last training sessions, kept for validation."),
    ] = "10%",  # type: ignore[assignment]
    name: Annotated[
        str | None, typer.Option(help="Name of the data set.", show_default="that of the directory")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the data set --output, if there is one.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print what was done as one JSON object.")] = False,
) -> None:
    """Make a data set of a click log: cut it into sessions, filter them, split off the test.

    Rows that are no clicks (without an item, a session or a time that can be read) are counted by reason and
    listed in the data set's rejected.csv.

    [bold]Examples[/bold]

    nextclick prepare --input clicks.csv --output artifacts/data/shop

    nextclick prepare --input clicks.tsv --output artifacts/data/shop
    --visitor-column uid --item-column sku --time-column ts --test-days 7

    nextclick prepare --format clicks --input artifacts/clicks --output artifacts/data/shop
    """
    from training.data import formats as logs
    from training.data.clicks import COLLECTED, ClicksError, files_of_newest_days
    from training.data.prepare import Rules, TooManyRejectedError
    from training.data.prepare import prepare as prepare_dataset

    given = {name for name in context.params if _is_given(context, name)}
    if tests:
        rules = {
            "min_session_length",
            "min_item_support",
            "test_days",
            "drop_repeats",
            "until_stable",
            "cut_straddling",
        }
        _refuse(given & rules, "has no meaning with --test: a log that comes split is taken as it is")
    if visitor_column:
        _refuse(given & {"session_column"}, "contradicts --visitor-column")
    console = Console(stderr=True, quiet=json_, soft_wrap=True)
    try:
        if format_ == "auto":
            format_ = logs.detect_format(inputs[0])
        if format_ != "csv":
            columns = {"session_column", "visitor_column", "item_column", "time_column", "time_format"}
            _refuse(given & columns, f"is for --format csv; this log is read as {format_}")
        if format_ != "retailrocket":
            _refuse(given & {"events"}, f"is for --format retailrocket; this log is read as {format_}")
        log_format = {
            "csv": logs.LogFormat(
                session=visitor_column or session_column,
                item=item_column,
                time=time_column,
                time_format=time_format,
                by_visitor=visitor_column is not None,
            ),
            "yoochoose": logs.YOOCHOOSE,
            "diginetica": logs.DIGINETICA,
            "retailrocket": replace(logs.RETAILROCKET, events=tuple(events or ["view"])),
            "clicks": COLLECTED,
            "sessions": None,
        }[format_]
        if format_ == "clicks":
            inputs, tests = (
                [file for clicks in directories for file in files_of_newest_days(clicks, None)]
                for directories in (inputs, tests or [])
            )
        with console.status("Preparing"):
            info = prepare_dataset(
                inputs,
                output,
                tests=tests or (),
                log_format=log_format,
                name=name,
                rules=Rules(
                    gap_minutes=gap_minutes,
                    min_session_length=min_session_length,
                    min_item_support=min_item_support,
                    test_days=test_days,
                    validation=validation,
                    drop_repeats=drop_repeats,
                    until_stable=until_stable,
                    cut_straddling=cut_straddling,
                ),
                max_rejected=max_rejected,
                force=force,
                report=lambda step: console.print(
                    f"{step.name:<20}{step.clicks:>13,} clicks{step.sessions:>12,} sessions"
                    f"{step.items:>10,} items"
                ),
            )
    except TooManyRejectedError as error:
        fail(str(error), code=1)
    except (logs.PrepareError, ClicksError) as error:
        fail(str(error), code=2)
    if json_:
        typer.echo(json.dumps({"output": str(output), "fingerprint": info.fingerprint, **info.model_dump()}))
        return
    for reason, count in info.counts.items():
        if reason.startswith("rejected"):
            console.print(f"{reason.replace('_', ' '):<20}{count:>13,} rows")
    console.print(f"{output}: the last {info.n_validation:,} training sessions are for validation")


@app.command(rich_help_panel="Data")
def demo_store(
    output: Annotated[
        Path, typer.Option(help="The click log; items.csv, the catalogue, is put beside it.")
    ] = Path("artifacts/demo/clicks.csv"),
    sessions: Annotated[int, typer.Option(min=1)] = 60_000,
    days: Annotated[int, typer.Option(min=1, help="How long the log is.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same log.")] = 7,
    json_: Annotated[bool, typer.Option("--json", help="Print what was done as one JSON object.")] = False,
) -> None:
    """Generate the click log of a shop that does not exist, for `prepare` to read."""
    from training.data.demo_store import write_demo_store

    n_clicks, n_items = write_demo_store(output, sessions=sessions, days=days, seed=seed)
    if json_:
        typer.echo(
            json.dumps({"output": str(output), "clicks": n_clicks, "sessions": sessions, "items": n_items})
        )
    else:
        typer.echo(f"{output}: {n_clicks:,} clicks in {sessions:,} sessions on {n_items:,} items", err=True)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse(options: set[str], why: str) -> None:
    """Refuse options that were given and would be ignored."""
    if options:
        names = sorted("--" + option.replace("_", "-").replace("events", "event") for option in options)
        fail(f"{', '.join(names)} {why}", code=2)


def fail(message: str, code: int) -> NoReturn:
    typer.secho(f"error: {message}", fg="red", err=True)
    raise typer.Exit(code)
