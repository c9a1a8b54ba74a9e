"""From click logs to a prepared data set: prepare, demo-store."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from training.commands.endings import fail
from training.data.reading.presets import TIME_FORMATS, FormatName

app = typer.Typer(no_args_is_help=True)

Format = Literal["auto", FormatName, "clicks"]


def _share(text: str) -> float:
    """`1%` or `0.01`."""
    share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


def _time_range(text: str) -> tuple[int, int]:
    """`2025-01-01..2025-06-30` in microseconds; a day at its end is meant whole. Raises `ValueError`."""
    first, dots, last = text.partition("..")
    if not dots:
        raise ValueError("there are no two dots in it")
    begin = _microseconds(first) if first else -_ALL_TIMES
    if not last:
        return begin, _ALL_TIMES
    is_day = len(last) <= len("2025-06-30")
    return begin, _microseconds(last) + (86_400_000_000 if is_day else 1)


def _microseconds(time: str) -> int:
    when = datetime.fromisoformat(time)
    since = (when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1)


_ALL_TIMES = 1 << 62
_LOG = "The log"
_RULES = "Rules of the RSC15/GRU4Rec protocol, without --test"


@app.command(rich_help_panel="Data")
def prepare(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="PATH|URL",
            help="Click log: a file, a directory, a pattern such as 'logs/*.gz', or Parquet in an object"
            " store,"
            " s3://BUCKET/PREFIX; may be repeated, the files make one log."
            " With --format clicks, what `collect` wrote.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The data set: a new directory.")],
    tests: Annotated[
        list[str] | None,
        typer.Option(
            "--test",
            metavar="PATH|URL",
            help="Test part of a log that is split already; then nothing is filtered.",
        ),
    ] = None,
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="auto, csv, yoochoose, diginetica, retailrocket, otto, rees46, ga4, snowplow, segment,"
            " sessions or clicks."
            " csv: one click a row, with a header, separated by comma, tab, semicolon or bar, or Parquet, or"
            " JSON lines;"
            " sessions: text with one session a line, which needs --test, or Parquet with one a row;"
            " clicks: what `collect` wrote, ARTIFACTS/clicks, cut"
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
        str,
        typer.Option(
            metavar="NAME|PATTERN",
            help=f"csv only: {', '.join(TIME_FORMATS[:-1])} since 1970, iso (UTC if it does not say), or a"
            " pattern of strptime, such as '%d/%m/%Y %H:%M'.",
            rich_help_panel=_LOG,
        ),
    ] = "auto",
    events: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            metavar="NAME",
            help="An event to keep, such as view; may be repeated. The others are counted.",
            show_default="those of the format that are views, else all",
            rich_help_panel=_LOG,
        ),
    ] = None,
    event_column: Annotated[
        str | None,
        typer.Option(
            help="csv only, with --event: the column that names it.",
            show_default="the first of event_type, event_name, event, type that there is",
            rich_help_panel=_LOG,
        ),
    ] = None,
    nothing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What stands for no session, item or time; may be repeated, and replaces the usual ones.",
            show_default="NA, N/A, NaN, nan, NULL, null, None, \\\\N, (null), (not set), undefined",
            rich_help_panel=_LOG,
        ),
    ] = None,
    nobody_alone: Annotated[
        bool,
        typer.Option(
            "--nobody-alone",
            help="A click without a session or visitor is a session of its own, instead of left out.",
            rich_help_panel=_LOG,
        ),
    ] = False,
    encoding: Annotated[
        str,
        typer.Option(
            help="auto tells UTF-8 and UTF-16; others, such as windows-1252, must be said.",
            rich_help_panel=_LOG,
        ),
    ] = "auto",
    time_range: Annotated[
        str | None,
        typer.Option(
            metavar="FROM..TO",
            help="Leave out clicks before or after, such as 2025-01-01..2025-06-30, days that are kept whole;"
            " one side may be empty, and .. keeps all.",
            show_default="without what a pause of 30 days cuts off, if that is little",
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
    max_session_length: Annotated[
        int,
        typer.Option(min=2, help="Of a longer session keep the newest clicks.", rich_help_panel=_RULES),
    ] = 500,
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
    from training.data.source import told_sources

    given = {name for name in context.params if _is_given(context, name)}
    if tests:
        rules = {
            "min_session_length",
            "min_item_support",
            "max_session_length",
            "test_days",
            "drop_repeats",
            "until_stable",
            "cut_straddling",
        }
        _refuse(given & rules, "has no meaning with --test: a log that comes split is taken as it is")
    if visitor_column:
        _refuse(given & {"session_column"}, "contradicts --visitor-column")
    console = Console(stderr=True, quiet=json_, soft_wrap=True)
    first_time = end_time = None
    if time_range:
        try:
            first_time, end_time = _time_range(time_range)
        except ValueError as error:
            fail(
                f"--time-range {time_range}: {error}; it is FROM..TO, such as 2025-01-01..2025-06-30", code=2
            )
    columns = {
        "session_column",
        "visitor_column",
        "item_column",
        "time_column",
        "time_format",
        "event_column",
    }
    try:
        if format_ == "auto":
            format_ = logs.detect_format(logs.log_files(inputs)[0])
            if format_ in ("otto", "rees46", "ga4", "snowplow", "segment") and given & columns:
                format_ = "csv"  # whoever names columns knows the file better
        if format_ != "csv":
            _refuse(given & columns, f"is for --format csv; this log is read as {format_}")
        if format_ in ("yoochoose", "diginetica", "sessions"):
            _refuse(given & {"events"}, f"is for logs that tell events; this log is read as {format_}")
        if event_column and not events:
            _refuse({"event_column"}, "says where the events are: --event says which to keep")
        is_sessions_table = format_ == "sessions" and logs.is_parquet(logs.log_files(inputs)[0])
        if format_ == "sessions":
            reading = {"nothing", "nobody_alone", "encoding", "time_range"}
            _refuse(given & reading, "has no meaning with one session a line")
        log_format = {
            "csv": logs.LogFormat(
                session=visitor_column or session_column,
                item=item_column,
                time=time_column,
                time_format=time_format,
                by_visitor=visitor_column is not None,
                event=(event_column or logs.EVENT) if events else None,
                events=tuple(events or ()),
            ),
            "yoochoose": logs.YOOCHOOSE,
            "diginetica": logs.DIGINETICA,
            "retailrocket": logs.RETAILROCKET,
            "otto": logs.OTTO,
            "rees46": logs.REES46,
            "ga4": logs.GA4,
            "snowplow": logs.SNOWPLOW,
            "segment": logs.SEGMENT,
            "clicks": COLLECTED,
            "sessions": logs.SESSIONS if is_sessions_table else None,
        }[format_]
        if log_format and events:
            log_format = replace(log_format, events=tuple(events))
        if log_format and format_ not in ("clicks", "sessions"):
            log_format = replace(
                log_format,
                nothing=logs.NOTHING if nothing is None else tuple(nothing),
                nobody_alone=nobody_alone,
                encoding=encoding,
            )
        files: list[list[str | logs.LogFile]] = [[*inputs], [*(tests or [])]]
        if format_ == "clicks":
            files = [
                [file for clicks in directories for file in files_of_newest_days(Path(clicks), None)]
                for directories in (inputs, tests or [])
            ]
        with console.status("Preparing"):
            info = prepare_dataset(
                files[0],
                output,
                tests=files[1],
                log_format=log_format,
                name=name,
                rules=Rules(
                    gap_minutes=gap_minutes,
                    min_session_length=min_session_length,
                    min_item_support=min_item_support,
                    max_session_length=max_session_length,
                    test_days=test_days,
                    validation=validation,
                    drop_repeats=drop_repeats,
                    until_stable=until_stable,
                    cut_straddling=cut_straddling,
                    first_time=first_time,
                    end_time=end_time,
                ),
                max_rejected=max_rejected,
                force=force,
                report=lambda step: console.print(
                    f"{step.name:<20}{step.clicks:>13,} clicks{step.sessions:>12,} sessions"
                    f"{step.items:>10,} items"
                ),
                show=lambda sources: console.print(
                    "\n".join(told_sources(sources)), highlight=False, markup=False
                ),
                tell=lambda word: console.print(word, highlight=False, markup=False),
            )
    except TooManyRejectedError as error:
        fail(str(error), code=1)
    except (logs.PrepareError, ClicksError) as error:
        fail(str(error), code=2)
    if json_:
        typer.echo(json.dumps({"output": str(output), "fingerprint": info.fingerprint, **info.model_dump()}))
        return
    for reason, count in info.counts.items():
        if reason.startswith("rejected") or (reason == "other_events" and count):
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
