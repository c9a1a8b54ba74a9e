"""From a raw log to a decision: try."""

# Commands import what they need when they run: `--help` shall not wait for torch.

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperOption

from training.commands import data as data_commands
from training.commands.endings import INTERRUPTED, fail, reported
from training.commands.options import CORES, JsonOption

if TYPE_CHECKING:
    from training.data.dataset import Dataset
    from training.report.trial import Budget, Trial, Tried
    from training.report.trial_page import Report

app = typer.Typer(no_args_is_help=True)
JSON, PAGE = "report.json", "report.html"
ENOUGH_SESSIONS = 500  # in the test: with fewer, more days are taken
MOST_DAYS = 7
MOST_OF_THE_LOG = 0.25  # of the sessions, in the test, if more days are taken
OWN = ("inputs", "output", "force", "json_")  # options of `prepare` that are this command's own


def _with_options_of(other: Callable[..., Any], but: tuple[str, ...]) -> Callable[[Callable[..., None]], Any]:
    """Give a command that ends in `**options` those of another command, as they are declared there."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        hints = {of: get_type_hints(of, include_extras=True) for of in (command, other)}
        own = [p.replace(annotation=hints[command][p.name]) for p in signature.parameters.values()][:-1]
        names = {parameter.name for parameter in own} | set(but)
        theirs = [
            p.replace(annotation=hints[other][p.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(other).parameters.values()
            if p.name not in names
        ]
        command.__signature__ = signature.replace(parameters=[*own, *theirs])  # type: ignore[attr-defined]
        return command

    return add


@app.command("try", rich_help_panel="Data")
@_with_options_of(data_commands.prepare, but=OWN)
def try_(
    context: typer.Context,
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG...", help="Click log: a file, a directory or a pattern, as `prepare --input`."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="A new directory: report.html, report.json, and the data set and bundles they tell of."
        ),
    ] = Path("nextclick-try"),
    budget_minutes: Annotated[
        float, typer.Option(min=0.1, help="All of it: reading, training and measuring.")
    ] = 10,
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="As `models` lists them: vmis_knn,niser or repeated.",
            show_default="pop,spop,item_knn,vmis_knn,gru,niser",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processor threads.", show_default="one or all, whichever is measured to be faster"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the trial --output, if there is one.")
    ] = False,
    json_: JsonOption = False,
    **options: Any,
) -> None:
    """Try a few models on a click log, and say which to begin with and what to type next.

    Prepares the log, as `prepare` with the same options does; measures Recall@20 and MRR@20 with intervals on
    its last days, by session length and by cold and warm items, and what an answer costs; all within the
    budget. A log with more sessions than there is time for is sampled, and the report says so.

    [bold]Examples[/bold]

    nextclick try clicks.csv

    nextclick try events.tsv --visitor-column uid --item-column sku --time-column ts --budget-minutes 5
    """
    from training.learn.checkpoint import check_writable
    from training.learn.registry import baseline_names, find_model
    from training.report.trial import MODELS, Budget, TrialError, try_models
    from training.report.trial_page import as_json, page

    clock: Callable[[], float] = context.obj or _seconds  # tests hand in their own
    budget = Budget(60 * budget_minutes, clock, clock() if context.obj else 0.0)
    told = Console(stderr=True, highlight=False, soft_wrap=True)
    with reported(json_) as console:
        names = list(dict.fromkeys(name for each in models or MODELS for name in each.split(",")))
        for name in names:
            if name not in baseline_names():
                find_model(name)
        check_writable(output.parent)
        try:
            with _built_aside(output, force) as work:
                data, days = _prepared(context, logs, output, options, work, told)
                trial = try_models(
                    names,
                    data,
                    work / "sample",
                    work,
                    budget,
                    [threads] if threads else sorted({1, CORES}),
                    lambda word: told.print(word, markup=False),
                )
                _keep_sample(work)
                commands = _commands(context, logs, trial, days)
                report = _report(trial, logs, options, days, commands, budget)
                text = json.dumps(as_json(report), indent=2) + "\n"
                (work / JSON).write_text(text, encoding="utf-8")
                (work / PAGE).write_text(page(report), encoding="utf-8")
        except TrialError as error:
            fail(str(error), code=1)
        except KeyboardInterrupt:
            told.print("interrupted; nothing is left of it")
            raise typer.Exit(INTERRUPTED) from None
        if json_:
            print(json.dumps(as_json(report)))
        else:
            _show(report, output, console)


def _seconds() -> float:
    """Since this process began, as far as the system tells: on a busy machine Python itself takes a while."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.monotonic() - _LOADED


_LOADED = time.monotonic()


@contextmanager
def _built_aside(output: Path, force: bool) -> Iterator[Path]:
    """A directory beside `output` that takes its place when all went well, and is removed when not."""
    if output.exists():
        if not force:
            fail(f"{output}: exists already: --force replaces it", code=2)
        if not (output / JSON).is_file():
            fail(f"{output}: exists already and is no trial: it is not replaced", code=2)
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield work
        work.chmod(0o755)  # mkdtemp's directories are private
        if output.exists():
            shutil.rmtree(output)
        work.replace(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _prepared(
    context: typer.Context,
    logs: list[Path],
    output: Path,
    options: dict[str, Any],
    work: Path,
    told: Console,
) -> tuple[Dataset, float | None]:
    """The data set `work`/data, and the days of its test, if these were not asked for or the log is split.

    A test of too few sessions is made one of more days. Leaves as `prepare` does when the log is no log.
    """
    from training.data.dataset import Dataset

    # Beside the output, as what `prepare` refuses is to stay there: OUTPUT.data.rejected.csv.
    place = output.with_name(f"{output.name}.data")
    name = options["name"] or re.sub(r"[^\w.-]+", "-", logs[0].name.split(".")[0]).strip("-.") or "log"
    asked = dict(options, name=name)
    prepare = data_commands.prepare
    try:
        prepare(context, inputs=[*map(str, logs)], output=place, force=False, json_=False, **asked)
        days = options["test_days"]
        more = _more_days(context, Dataset.load(place), days) if not options["tests"] else None
        if more is not None:
            told.print(
                f"{len(Dataset.load(place).test):,} test sessions are few: the last {more:g} days instead"
            )
            days = more
            prepare(
                context,
                inputs=[*map(str, logs)],
                output=place,
                force=True,
                json_=False,
                **{**asked, "test_days": days},
            )
        place.rename(work / "data")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Dataset.load(work / "data"), None if options["tests"] else days


def _more_days(context: typer.Context, data: Dataset, days: float) -> float | None:
    """How many last days it takes for a test of enough sessions, if it needs more and the log has them."""
    source = context.get_parameter_source("test_days")
    sessions = len(data.test)
    if (source is not None and source.name == "COMMANDLINE") or sessions >= ENOUGH_SESSIONS:
        return None
    most = MOST_OF_THE_LOG * (len(data.train_all) + sessions) / max(sessions, 1)  # such days that it may take
    wanted = min(ENOUGH_SESSIONS / max(sessions, 1), most, MOST_DAYS / days)
    more = float(int(wanted * days))
    return more if more > days else None


def _keep_sample(work: Path) -> None:
    """Leave as data/ what was tried, and of a sample's origin only the rows that were rejected."""
    from training.data.prepare import REJECTED

    shutil.rmtree(work / "runs", ignore_errors=True)
    if (work / "sample").exists():
        if (work / "data" / REJECTED).exists():
            (work / "data" / REJECTED).rename(work / "sample" / REJECTED)
        shutil.rmtree(work / "data")
        (work / "sample").rename(work / "data")


def _commands(context: typer.Context, logs: list[Path], trial: Trial, days: float | None) -> list[str]:
    """What to type next, as it can be pasted."""
    if trial.advice is None:
        return []
    name = trial.data.info.name
    place = next(
        path
        for path in (Path("artifacts/data") / (f"{name}-{n}" if n else name) for n in range(1000))
        if not path.exists()
    )
    words = ["nextclick", "prepare"]
    for log in logs:
        words += ["--input", str(log)]
    theirs = set(inspect.signature(data_commands.prepare).parameters)
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        given = source is not None and source.name == "COMMANDLINE"
        if option.name == "test_days" and days is not None and days != option.default:
            words += [option.opts[0], f"{days:g}"]
        elif option.name in theirs and option.name not in OWN and given and isinstance(option, TyperOption):
            words += _typed(option, context.params[str(option.name)])
    words += ["--output", str(place)]
    train = [
        "nextclick",
        "train",
        "--data",
        str(place),
        "--model",
        trial.advice.model,
        "--refit",
        "--publish",
    ]
    return [shlex.join(words), shlex.join(train), "nextclick serve"]


def _typed(option: TyperOption, value: Any) -> list[str]:
    """An option as it can be typed again."""
    if option.is_flag:
        return [option.opts[0]]
    values = value if option.multiple else [value]
    return [word for each in values for word in (option.opts[0], str(each))]


def _report(
    trial: Trial,
    logs: list[Path],
    options: dict[str, Any],
    days: float | None,
    commands: list[str],
    budget: Budget,
) -> Report:
    from training.report.advice import in_words
    from training.report.trial import steps_of
    from training.report.trial_page import Report, Split

    data, counts = trial.data, trial.data.info.counts
    titles = {of.model: of.title for of in trial.models}
    return Report(
        name=data.info.name,
        inputs=[str(path) for path in [*logs, *(options["tests"] or [])]],
        source=data.info.model_dump(mode="json").get("source") or [],
        rows=counts.get("rows"),
        other_events=counts.get("other_events", 0),
        rejected={
            name.removeprefix("rejected_"): n
            for name, n in counts.items()
            if name.startswith("rejected_") and n
        },
        steps=steps_of(counts),
        test_days=days,
        split=Split(
            len(data.train), len(data.validation), len(data.test), data.test.n_targets, data.info.n_items
        ),
        sampled=trial.sampled,
        models=trial.models,
        left_out=trial.left_out,
        advised=trial.advice.model if trial.advice else None,
        advice=in_words(trial.advice, titles) if trial.advice else [],
        notes=trial.notes,
        commands=commands,
        budget_minutes=budget.seconds / 60,
        seconds=round(budget.spent, 1),
        threads=trial.threads,
    )


def _show(report: Report, output: Path, console: Console) -> None:
    """The report as text."""

    def say(text: str = "", style: str | None = None) -> None:
        console.print(text, markup=False, soft_wrap=True, style=style)

    for of in report.source:
        say(
            f"{of['path']}: "
            + ", ".join(str(of[key]) for key in ("format", "compression", "encoding") if of.get(key))
        )
        for key in (
            "columns",
            "time_unit",
            "id_types",
            "lines",
            "kept",
            "rejected",
            "first_time",
            "last_time",
            "sample",
        ):
            if of.get(key):
                value = of[key]
                if isinstance(value, dict):
                    value = ", ".join(f"{name} {each}" for name, each in value.items())
                say(f"  {key.replace('_', ' ')}: {value}")
    if report.rows is not None:
        rejected = "".join(f", {n:,} {reason.replace('_', ' ')}" for reason, n in report.rejected.items())
        say(f"{report.rows:,} rows{rejected}")
    for step in report.steps:
        say(f"  {step.step:<20}{step.clicks:>13,} clicks{step.sessions:>12,} sessions{step.items:>10,} items")
    say(
        f"{report.split.test_cases:,} next clicks of {report.split.test_sessions:,} test sessions"
        + (f", the last {report.test_days:g} day(s)" if report.test_days is not None else "")
    )
    say()
    console.print(_table(report.models, report.advised))
    if any(of.stopped for of in report.models):
        say("* stopped by the clock")
    for told, which in (
        ("clicks in the session so far", "by_length"),
        ("the next item: cold has fewer than 5 training clicks", "by_novelty"),
    ):
        say(f"\nRecall@20 / MRR@20 by {told} (test cases)")
        console.print(_parts(report.models, which))
    say()
    for note in report.notes:
        say(note)
    for left in report.left_out:
        say(f"{left.model} was left out: {left.why}")
    for sentence in report.advice:
        say(sentence, "bold" if sentence is report.advice[0] else None)
    if report.commands:
        say()
        for command in report.commands:
            say(f"  {command}")
    say()
    say(
        f"{output / PAGE} and {output / JSON}; {report.seconds / 60:.1f} of {report.budget_minutes:g} minutes"
    )


def _table(models: list[Tried], advised: str | None) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in ("Recall@20 (95 %)", "MRR@20 (95 %)", "ms p50/p90", "MB", "epochs", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for of in models:
        cost = of.answer_milliseconds
        table.add_row(
            of.title,
            *(f"{each.value:.2f} ({each.low:.1f}-{each.high:.1f})" for each in (of.recall, of.mrr)),
            f"{cost['p50']:.2f}/{cost['p90']:.2f}" if cost else "-",
            f"{of.bundle_bytes / 1e6:.1f}" if of.bundle_bytes is not None else "-",
            ("-" if of.epochs is None else str(of.epochs)) + ("*" if of.stopped else ""),
            f"{of.seconds:.1f}",
            style="bold" if of.model == advised else None,
        )
    return table


def _parts(models: list[Tried], which: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name, part in getattr(models[0], which).items():
        table.add_column(f"{name} ({part.cases:,})", justify="right", no_wrap=True)
    for of in models:
        parts = getattr(of, which).values()
        table.add_row(of.title, *(f"{part.recall:.1f} / {part.mrr:.1f}" for part in parts))
    return table
