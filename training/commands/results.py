"""Many models on one data set, and what people read of their results: popularity, benchmark, report."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from training.commands.endings import INTERRUPTED, reported, terminated
from training.commands.options import (
    CORES,
    ArtifactsOption,
    DataOption,
    DeviceOption,
    DevicesOption,
    JsonOption,
    ThreadsOption,
    as_typed,
)

app = typer.Typer(no_args_is_help=True)


@app.command(rich_help_panel="Results")
def popularity(
    bundle: Annotated[
        list[Path], typer.Option(metavar="PATH", help="A bundle's directory; repeat it to compare.")
    ],
    data: DataOption,
    results: Annotated[Path, typer.Option(help="Gets <dataset>/popularity.svg and popularity.json.")],
    threads: ThreadsOption = CORES,
    json_: JsonOption = False,
) -> None:
    """Measure and draw popularity bias: item vectors' lengths, and how popular the answered items are.

    Answers are those to the test cases, through the served path.
    """
    from service.live.deployment import replace_file
    from service.ranking.bundle import Bundle
    from training.bundling.provenance import source_commit
    from training.data.dataset import Dataset
    from training.report.popularity import draw, measure

    with reported(json_) as console:
        dataset = Dataset.load(data)
        biases = [measure(Bundle.load(each, threads), dataset) for each in bundle]
        figures = {bias.title: bias.figures() for bias in biases}
        result = {"command": as_typed(), "commit": source_commit(), "models": figures}
        place = results / dataset.info.name
        place.mkdir(parents=True, exist_ok=True)
        draw(biases, place / "popularity.svg")
        replace_file(place / "popularity.json", json.dumps(result, indent=2).encode() + b"\n")
        if json_:
            print(json.dumps(result))
        else:
            console.print(f"wrote {place / 'popularity.svg'} and {place / 'popularity.json'}")


@app.command(rich_help_panel="Results")
def benchmark(
    data: DataOption,
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="As `models` lists them: niser,stan or repeated.",
            show_default="all of them",
        ),
    ] = None,
    budget_minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; the same command goes on.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every model.")] = 1,
    threads: ThreadsOption = CORES,
    device: DeviceOption = "auto",
    devices: DevicesOption = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    results: Annotated[Path, typer.Option(help="Gets <dataset>/<model>.json and .npz.")] = Path(
        "docs/results"
    ),
    json_: JsonOption = False,
) -> None:
    """Train and measure many models, one after another, each with its own settings and --refit.

    A model whose result file is there is done. After Ctrl-C, a kill or the end of the budget the same command
    goes on where it was. A model that fails is named at the end (exit code 1); the others go on.
    """
    from training.learn.devices import resolve_device
    from training.learn.registry import baseline_names, find_model, model_names
    from training.report.benchmark import BenchmarkOptions, Outcome
    from training.report.benchmark import benchmark as run_benchmark

    with reported(json_) as console, terminated():
        names = [name for each in models or [] for name in each.split(",")]
        for name in names:
            if name not in baseline_names():
                find_model(name)
        names = list(dict.fromkeys(names or [*baseline_names(), *model_names()]))
        resolve_device(device)
        options = BenchmarkOptions(
            data, results, artifacts, seed, threads, budget_minutes, device=device, devices=devices
        )
        outcomes: list[Outcome] = []
        try:
            for name, news in run_benchmark(names, options):
                if not isinstance(news, Outcome):
                    budget = "" if news is None else f", {news / 60:.0f} min of the budget left"
                    console.print(f"[bold]{name}[/bold] ({len(outcomes) + 1} of {len(names)}{budget})")
                    continue
                outcomes.append(news)
                figures = "  Recall@20 {:.2f}  MRR@20 {:.2f}".format(*news.figures) if news.figures else ""
                console.print(f"  {news.state}{figures}  {news.seconds / 60:.1f} min")
        except KeyboardInterrupt:
            console.print("interrupted; the same command goes on from the last checkpoint")
            raise typer.Exit(INTERRUPTED) from None
        states = {
            state: [o.model for o in outcomes if o.state == state] for state in (o.state for o in outcomes)
        }
        if json_:
            print(json.dumps(states))
        if waiting := states.get("out of budget"):
            console.print(f"out of budget: {', '.join(waiting)}; the same command goes on")
        if failed := states.get("failed"):
            console.print(f"failed, for the reasons above: {', '.join(failed)}")
            raise typer.Exit(1)


@app.command(rich_help_panel="Results")
def report(
    results: Annotated[Path, typer.Option(help="As `train --results` left it; docs/results, say.")],
    json_: JsonOption = False,
) -> None:
    """Write RESULTS/<dataset>/README.md, the leaderboard of all that was run there, and pictures beside it.

    Reads RESULTS alone: no data set, no bundle. Files whose content would be the same stay untouched.
    """
    from training.report.write import known_models, write_reports

    with reported(json_) as console:
        changes = write_reports(results, known_models())
        if json_:
            files = {"written": changes.written, "removed": changes.removed}
            print(json.dumps({kind: list(map(str, of)) for kind, of in files.items()}))
            return
        for kind, of in (("wrote", changes.written), ("removed", changes.removed)):
            for file in of:
                console.print(f"{kind} {file}", markup=False, soft_wrap=True)
        if not (changes.written or changes.removed):
            console.print("nothing changed")
