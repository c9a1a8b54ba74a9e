"""From a prepared data set to a bundle: train; and what there is to train: models."""

# Commands import what they need when they run: `--help` shall not wait for torch.

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from training.commands.endings import INTERRUPTED, reported, tell_measured
from training.commands.options import (
    CORES,
    ArtifactsOption,
    CatalogueOption,
    ColdShareOption,
    DataOption,
    DeviceOption,
    DevicesOption,
    IndexOption,
    ItemsOption,
    JsonOption,
    MaxIndexOption,
    RepeatsOption,
    ThreadsOption,
    as_typed,
    attributes_of,
)
from training.search.auto import AUTO, BUDGET_MINUTES

if TYPE_CHECKING:
    from training.data.dataset import Dataset
    from training.fit import FitOptions
    from training.learn.cards import Card
    from training.learn.train import Watcher
    from training.search.choose import Choice, Found

app = typer.Typer(no_args_is_help=True)
VARIANT = re.compile(r"(?!seed\d+$)[\w-]+")


@app.command(rich_help_panel="Models")
def train(
    data: DataOption,
    model: Annotated[
        str,
        typer.Option(help="auto (validation chooses), or what `models` lists: niser, gru, vmis_knn, …"),
    ] = AUTO,
    budget_minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --model auto: after so long no further model is begun.",
            show_default=f"{BUDGET_MINUTES:g}",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any recipe field or hyper-parameter."),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="Settings of the model's paper, as `models NAME` tells them; --set goes on top."
        ),
    ] = False,
    paper_of: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Other published settings of the model: 2016, 2018, … of gru4rec.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            help="A bundle, a blend above all, whose answers are a part of every target.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Weights, batches and dropout follow from it.")] = 1,
    refit: Annotated[
        bool, typer.Option("--refit", help="Then train anew on training + validation, for the chosen epochs.")
    ] = False,
    refit_epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Only refit, for this many epochs that validation chose earlier."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's checkpoint, to the same weights.")
    ] = False,
    precision: Annotated[
        Literal["auto", "bf16", "32"],
        typer.Option(
            help="Of the products with the item table: bf16, 32, or auto (bf16 where it is native)."
        ),
    ] = "auto",
    threads: ThreadsOption = CORES,
    device: DeviceOption = "auto",
    devices: DevicesOption = None,
    index: IndexOption = "auto",
    max_index_mb: MaxIndexOption = None,
    items: ItemsOption = None,
    cold_share: ColdShareOption = None,
    catalogue: CatalogueOption = None,
    repeats: RepeatsOption = True,
    artifacts: ArtifactsOption = Path("artifacts"),
    results: Annotated[
        Path | None, typer.Option(help="Also write RESULTS/<dataset>/<model>.json, as in docs/results.")
    ] = None,
    variant: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="With --results: a line of its own on the leaderboard, beside the model's.",
            show_default=False,
        ),
    ] = "",
    publish: Annotated[bool, typer.Option("--publish", help="Make the new bundle the live one.")] = False,
    test: Annotated[
        bool,
        typer.Option("--test", help="Also measure the bundle on the test sessions, as --results does."),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Train a model, export it as a bundle, and tell what validation says of the chosen epoch.

    Without --model several are tried, the cheapest first, and validation chooses: VMIS-kNN, a GRU, NISER+,
    CORE, and the model that is live. Each is judged as it would be served; the best alone becomes a bundle.

    Validation is for choosing between settings; the test sessions are for the one that was chosen, so they
    are read only with --test or --results, by `evaluate` and by `benchmark`. A counted baseline is counted;
    item_knn, vmis_knn and vsknn become bundles, too. Epochs end early when validation MRR@20 stops rising.
    Every epoch leaves a checkpoint under ARTIFACTS/runs/, in a directory for each data set, model, seed and
    what was --set; Ctrl-C or a kill loses nothing before the last one: run again with --resume.
    With --devices, or under torchrun, several processes train one model together, and the first one writes.
    """
    from service.live.artifacts import Artifacts
    from service.live.deployment import publish as publish_version
    from service.ranking.bundle import Bundle
    from service.ranking.neighbours import NEIGHBOURS
    from training.bundling.indexes import WantedIndex
    from training.data.dataset import Dataset
    from training.fit import FitOptions, fit, train_along
    from training.learn.checkpoint import check_writable
    from training.learn.devices import DeviceError, open_fabric, torchrun_processes
    from training.learn.hyper import (
        PAPER,
        HyperError,
        check_teachable,
        fit_to_catalogue,
        resolve,
        resolve_counted,
    )
    from training.learn.registry import baseline_names, find_model
    from training.learn.train import default_precision
    from training.measure.results import write_result
    from training.report.watch import TerminalWatcher

    with reported(json_, together=True) as console:
        published = paper_of or (PAPER if paper else None)
        if variant and not VARIANT.fullmatch(variant):
            raise HyperError(f"--variant {variant}: a name is letters, digits, _ and -, and not seed<N>")
        if variant and results is None:
            raise HyperError("--variant: names a line of --results")
        if budget_minutes is not None and model != AUTO:
            raise HyperError(f"--budget-minutes: is for --model {AUTO}, in which several models share it")
        if model == AUTO:
            if (devices or torchrun_processes()) > 1:
                raise DeviceError(f"--model {AUTO}: models are chosen by one process: name a --model")
            if published or refit_epochs is not None:
                option = "--refit-epochs" if refit_epochs is not None else "--paper"
                raise HyperError(f"{option}: says something of one model: name a --model")
            recipe, hyper = None, {}
        elif model in baseline_names():
            if (devices or torchrun_processes()) > 1:
                raise DeviceError(f"--devices: {model} is counted, by one process")
            if publish and model not in NEIGHBOURS:
                raise HyperError(
                    f"--publish: {model} cannot be served; of what is counted, {', '.join(NEIGHBOURS)} can"
                )
            if refit_epochs is not None:
                raise HyperError(f"--refit-epochs: {model} is counted, not trained in epochs; use --refit")
            recipe, hyper = None, resolve_counted(model, set_ or [], published)
        else:
            recipe, hyper = resolve(find_model(model), set_ or [], published)
        if teacher is not None:
            if recipe is None:
                why = "name a --model" if model == AUTO else f"{model} is counted"
                raise HyperError(f"--teacher: teaches one model that is trained: {why}")
            check_teachable(model, recipe, hyper)
        fabric = open_fabric(device, devices) if recipe or model == AUTO else None
        prepared = Dataset.load(data)
        if recipe is not None:
            recipe, reason = fit_to_catalogue(recipe, prepared.info.n_items, set_ or [], published)
            if reason:
                console.print(reason)
        options = FitOptions(
            recipe=recipe,
            hyper=hyper,
            seed=seed,
            precision=default_precision(fabric.device if fabric else None)
            if precision == "auto"
            else precision,
            threads=threads,
            artifacts=artifacts,
            index=WantedIndex(index, max_index_mb),
            refit=refit,
            refit_epochs=refit_epochs,
            resume=resume,
            attributes=attributes_of(items, cold_share, catalogue),
            repeats=repeats,
            test=test or results is not None,
            teacher=Bundle.load(teacher, threads) if teacher is not None else None,
            fabric=fabric,
        )
        if fabric and fabric.global_rank:
            with TerminalWatcher(Console(quiet=True)) as watcher:
                train_along(model, prepared, options, watcher)
            return
        if results is not None:
            check_writable(results)
        try:
            with TerminalWatcher(console) as watcher:
                choice = None
                if model == AUTO:
                    budget = BUDGET_MINUTES if budget_minutes is None else budget_minutes
                    choice, options = _choose(prepared, options, set_ or [], budget, watcher)
                    model = choice.model
                fitted = fit(model, prepared, options, watcher, as_typed())
        except KeyboardInterrupt:
            console.print("interrupted; the same command with --resume goes on from the last checkpoint")
            raise typer.Exit(INTERRUPTED) from None
        if choice is not None:
            fitted.result["candidates"] = [found.model_dump() for found in choice.found]
            if choice.found:
                console.print(_candidates(choice.found, choice.model))
        if results is not None:
            fitted.result["variant"] = variant
            console.print(f"wrote {write_result(results, fitted)}")
        if publish and fitted.bundle is not None:
            publish_version(Artifacts.at(artifacts), fitted.bundle.name)
        made = str(fitted.bundle) if fitted.bundle else f"{model} is measured, not served: no bundle"
        if not json_ and fitted.result["validation"] is None and not options.test:
            made += "\nno validation figures: nothing was held back from it; --test or `evaluate` measures"
        tell_measured(
            fitted.result, json_, console, f"{made}{'  (live)' if publish else ''}", "validation", "test"
        )


def _choose(
    data: Dataset, options: FitOptions, set_: list[str], budget_minutes: float, watcher: Watcher
) -> tuple[Choice, FitOptions]:
    """The model that validation chooses, and the options to go on with it from its checkpoint."""
    from training.search.candidates import candidates, fitted_to_catalogue
    from training.search.choose import choose, options_of

    settings = candidates(options.artifacts, set_, watcher.on_step)
    settings = fitted_to_catalogue(settings, data.info.n_items, set_, watcher.on_step)
    if options.attributes is not None:
        watcher.on_step("--items: what is counted has no vectors of items, and is not tried")
        settings = {name: each for name, each in settings.items() if each[0] is not None}
    directory = options.artifacts / "runs" / data.info.name / f"{AUTO}-seed{options.seed}"
    wanted = options_of(settings, options, directory)
    choice = choose(wanted, data, directory, 60 * budget_minutes, watcher, resume=options.resume)
    chosen = wanted[choice.model]
    return choice, replace(chosen, resume=True) if choice.found else chosen


def _candidates(found: Sequence[Found], chosen: str) -> Table:
    table = Table(title="candidates, on validation", title_justify="left", box=None, pad_edge=False)
    table.add_column("model")
    for name in ("Recall@20", "MRR@20", "without repeats", "epochs", "s"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in found:
        figures = (each.recall, each.mrr, each.mrr_without)
        table.add_row(
            each.model,
            *("–" if figure is None else f"{figure:.2f}" for figure in figures),
            str(each.epochs or "–"),
            f"{each.seconds:.0f}",
            "chosen" if each.model == chosen else each.reason or "",
        )
    return table


@app.command(rich_help_panel="Models")
def models(
    name: Annotated[
        str | None, typer.Argument(help="One model: its docstring, and all that can be `--set`.")
    ] = None,
    n_items: Annotated[int, typer.Option(min=2, help="Items in the catalogue, for the parameters.")] = 40_000,
    json_: JsonOption = False,
) -> None:
    """List the models that can be trained or counted, or tell all about one."""
    from training.learn.cards import all_cards, card, docstring
    from training.learn.hyper import PAPER, paper_of_counted, published_settings, resolve, resolve_counted
    from training.learn.registry import baseline_names, find_model

    with reported(json_) as console:
        if name is None:
            cards = all_cards(n_items)
            if json_:
                print(json.dumps({"n_items": n_items, "models": [asdict(each) for each in cards]}))
            else:
                console.print(_table(cards))
            return
        one, text = card(name, n_items), docstring(name)
        published: list[str] = []
        if name in baseline_names():
            published = [PAPER] if paper_of_counted(name) else []
            settings = {
                each: {"recipe": {}, "hyperparameters": {**resolve_counted(name, [], each)}}
                for each in (None, *published)
            }
        else:
            published = [*published_settings(find_model(name))]
            settings = {
                each: {"recipe": asdict(recipe), "hyperparameters": {**hyper}}
                for each in (None, *published)
                for recipe, hyper in [resolve(find_model(name), [], each)]
            }
        here = settings.pop(None)
        if json_:
            whole = {**asdict(one), "docstring": text, **here, "published": settings}
            print(json.dumps({"n_items": n_items, **whole}))
        else:
            kind_of = (
                f"{one.head} head, {'causal' if one.causal else 'not causal'}"
                if one.head
                else "no parameters"
            )
            print(f"{text}\n\n{one.family}, {kind_of}")
            if one.head:
                print(f"{one.parameters:,} parameters at {n_items:,} items")
            paper = settings.get(PAPER)
            for kind, values in here.items():
                if values:
                    print(f"\n{kind}, --set NAME=VALUE: here{' / --paper' if paper else ''}")
                for setting, value in values.items():
                    theirs = f" / {_typed(paper[kind][setting])}" if paper else ""
                    print(f"  {setting:<20} {_typed(value)}{theirs}")
            for each in published[1:]:
                assert paper is not None
                print(f"\n--paper-of {each}: as --paper, but")
                for kind, values in settings[each].items():
                    for setting, value in values.items():
                        if value != paper[kind][setting]:
                            print(f"  {setting}={_typed(value)}")


def _typed(value: object) -> str:
    """A setting's value as `--set` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(cards: list[Card]) -> Table:
    table = Table("model", "paper", "family", box=None, pad_edge=False)
    table.add_column("parameters", justify="right")
    table.add_column("head")
    table.add_column("causal")
    for card in cards:
        causal = ("yes" if card.causal else "no") if card.head else "–"
        parameters = f"{card.parameters:,}" if card.head else "–"
        table.add_row(card.name, card.cited, card.family, parameters, card.head or "–", causal)
    return table
