"""From a prepared data set to the settings to train with: tune."""

# Commands import what they need when they run: `--help` shall not wait for torch.

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from training.commands.endings import INTERRUPTED, reported
from training.commands.options import (
    CORES,
    ArtifactsOption,
    DataOption,
    DeviceOption,
    JsonOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

app = typer.Typer(no_args_is_help=True)
SHOWN = 5


@app.command(rich_help_panel="Models")
def tune(
    data: DataOption,
    model: Annotated[str, typer.Option(help="A module's name under models/: gru, niser, …")],
    trials: Annotated[
        int, typer.Option(min=1, help="Complete or pruned ones in all, those of earlier runs included.")
    ],
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LOW..HIGH|NAME=A|B",
            help="A range or a choice of any recipe field or hyper-parameter; may be repeated. A range is"
            " logarithmic for lr, weight_decay, and where HIGH is 100 times LOW or more. Without any: lr from"
            " a third to three times the model's own, every dropout from 0 to 0.6.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Fix any other, as in `train`."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search, and of every trial's training.")] = 1,
    precision: Annotated[Literal["auto", "bf16", "32"], typer.Option(help="As in `train`.")] = "auto",
    threads: ThreadsOption = CORES,
    device: DeviceOption = "auto",
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """Search hyper-parameters by validation MRR@20; the test sessions are not read.

    The model's own settings are the first trial. Trials that do worse than the median of those before are
    stopped. The study is kept under ARTIFACTS/tune/: after Ctrl-C or a kill the same command goes on, and
    with more --trials it goes further. Prints the best trials, and the command to train the best one.
    """
    from training.data.dataset import Dataset
    from training.learn.devices import resolve_device
    from training.learn.registry import find_model
    from training.learn.train import default_precision
    from training.report.watch import TerminalWatcher
    from training.search.space import assignments, own_parameters, search_space
    from training.search.tune import TuneOptions, best_first
    from training.search.tune import tune as run_study

    with reported(json_) as console:
        fixed = set_ or []
        options = TuneOptions(
            fixed=fixed,
            space=search_space(find_model(model), fixed, search or []),
            trials=trials,
            seed=seed,
            precision=default_precision(resolve_device(device)) if precision == "auto" else precision,
            threads=threads,
            artifacts=artifacts,
            device=device,
        )
        dataset = Dataset.load(data)
        try:
            with TerminalWatcher(console) as watcher:
                study = run_study(model, dataset, options, watcher)
        except KeyboardInterrupt:
            console.print("interrupted; the same command goes on from the last checkpoint")
            raise typer.Exit(INTERRUPTED) from None
        best = best_first(study)
        words = ["train", "--data", str(data), "--model", model, "--refit"]
        words += [word for each in [*fixed, *assignments(best[0].params)] for word in ("--set", each)]
        words += ["--seed", str(seed), "--precision", options.precision, "--threads", str(threads)]
        words += ["--artifacts", str(artifacts), *(["--device", device] if device != "auto" else [])]
        command = "python -m training " + shlex.join(words)
        own = own_parameters(find_model(model), fixed, options.space)
        before = study[0].value if study[0].params == own else None  # it may have failed
        if json_:
            print(json.dumps(_result(study, best[0], before, command)))
            return
        console.print(_table(best[:SHOWN]))
        if before is not None:
            console.print(f"the model's own settings, trial 0: MRR@20 {before:.2f}")
        console.print(command, markup=False, soft_wrap=True)


def _result(
    study: list[FrozenTrial], best: FrozenTrial, before: float | None, command: str
) -> dict[str, object]:
    return {
        "best": {
            "trial": best.number,
            "parameters": best.params,
            "epoch": best.user_attrs["epoch"],
            "mrr@20": best.value,
            "recall@20": best.user_attrs["recall@20"],
        },
        "own_mrr@20": before,
        "trials": dict(Counter(trial.state.name.lower() for trial in study)),
        "command": command,
    }


def _table(trials: list[FrozenTrial]) -> Table:
    from training.search.tune import show

    table = Table(box=None, pad_edge=False, title="best on validation", title_justify="left")
    for name in ("trial", "epoch", "MRR@20", "Recall@20"):
        table.add_column(name, justify="right")
    table.add_column("parameters", overflow="fold")
    for trial in trials:
        epoch, recall = trial.user_attrs["epoch"], trial.user_attrs["recall@20"]
        table.add_row(
            str(trial.number), str(epoch), f"{trial.value:.2f}", f"{recall:.2f}", show(trial.params)
        )
    return table
