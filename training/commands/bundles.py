"""What was trained: evaluate, export, and blend several into one."""

# Commands import what they need when they run: `--help` shall not wait for torch.

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from training.commands.endings import reported, tell_measured
from training.commands.options import (
    CORES,
    ArtifactsOption,
    CatalogueOption,
    ColdShareOption,
    DataOption,
    IndexOption,
    ItemsOption,
    JsonOption,
    MaxIndexOption,
    RepeatsOption,
    ThreadsOption,
    attributes_of,
)

if TYPE_CHECKING:
    from models.sessions import Sessions
    from service.ranking.bundle import Bundle
    from training.data.dataset import Dataset

app = typer.Typer(no_args_is_help=True)


@app.command(rich_help_panel="Models")
def evaluate(
    bundle: Annotated[Path, typer.Option(help="A bundle's directory.")],
    data: DataOption,
    split: Annotated[Literal["test", "validation"], typer.Option()] = "test",
    results: Annotated[
        Path | None,
        typer.Option(help="Also renew what RESULTS/<dataset>/<model>.json says was measured of this bundle."),
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also measure what is answered in this placement."),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            help="With --placement: the catalogue, as `items import` reads it.",
            show_default="what Redis holds",
        ),
    ] = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    threads: ThreadsOption = CORES,
    json_: JsonOption = False,
) -> None:
    """Measure a bundle as it is served (ONNX + FAISS): Recall, MRR, NDCG @5/10/20, coverage, popularity.

    Prints JSON, once with nothing masked, once with the session's own items left out. Percent, except
    popularity: mean training clicks of an answered item. A validation split says little of a bundle that
    was refitted on it. With --placement also what the service answers in a placement of ARTIFACTS: through
    its filter, steering and stages, but with nothing trending.
    """
    from service.ranking.bundle import Bundle
    from training.data.dataset import Dataset
    from training.learn.hyper import HyperError
    from training.measure.evaluate import evaluate as evaluate_bundle
    from training.measure.results import ResultError, measure_again

    with reported(json_):
        if items is not None and placement is None:
            raise HyperError("--items is for --placement")
        dataset = Dataset.load(data)
        loaded = Bundle.load(bundle, threads)
        sessions = dataset.test if split == "test" else dataset.validation
        in_placement = (
            _in_placement(loaded, dataset, sessions, artifacts, placement, items)
            if placement is not None
            else {}
        )
        measured = evaluate_bundle(loaded, dataset, sessions)
        if results is not None:
            if split != "test":
                raise ResultError("--results: holds what was measured on test, not on validation")
            measure_again(results, Bundle.load(bundle), dataset, measured)
        result = {
            "bundle": loaded.manifest.version,
            "dataset": dataset.info.name,
            "split": split,
            "cases": measured.cases,
            "index": loaded.manifest.index.model_dump() if loaded.manifest.index else None,
            "metrics": measured.unmasked,
            "metrics_without_seen_items": measured.unseen_only,
            **in_placement,
        }
        print(json.dumps(result, indent=None if json_ else 2))


def _in_placement(
    bundle: Bundle, data: Dataset, sessions: Sessions, artifacts: Path, name: str, file: Path | None
) -> dict[str, object]:
    """What is measured under a placement, as `evaluate` prints it."""
    from service.catalogue.attributes import Schema
    from service.catalogue.filters import Filters
    from service.catalogue.placements import prepare
    from service.live.deployment import history_of, read_deployment
    from service.process.settings import load_settings
    from training.data.items import BadRow, ItemsFileError, read_items
    from training.loop.items import stored_items
    from training.measure.placed import evaluate_placed

    settings = load_settings().model_copy(update={"artifacts_dir": artifacts})
    schema = Schema.of(settings)
    version = history_of(read_deployment(artifacts), name)[-1]
    prepared = prepare(name, version.placement, schema.kinds)
    filters = Filters(schema.kinds)
    if file is None:
        filters.apply(stored_items(settings))
    else:
        for row in read_items(file, schema):
            if isinstance(row, BadRow):
                raise ItemsFileError(f"{file}:{row.line}: {row.reason}")
            filters.apply([row])
    if not len(filters.columns):
        raise ItemsFileError("the catalogue is empty: every rule would be judged by what is absent")
    found = evaluate_placed(bundle, data, sessions, filters, prepared)
    return {
        "placement": {
            "name": name,
            "number": version.number,
            "catalogue_items": len(filters.columns),
            "items_answered": found.items_answered,
            "metrics": found.metrics,
        }
    }


@app.command(rich_help_panel="Models")
def export(
    checkpoint: Annotated[Path, typer.Option(help="A run's select.pt or refit.pt.")],
    data: DataOption,
    index: IndexOption = "auto",
    max_index_mb: MaxIndexOption = None,
    items: ItemsOption = None,
    cold_share: ColdShareOption = None,
    catalogue: CatalogueOption = None,
    repeats: RepeatsOption = True,
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """Make a bundle of a checkpoint: the best epoch so far (select.pt), or the newest (refit.pt)."""
    from training.bundling.indexes import WantedIndex
    from training.data.dataset import Dataset
    from training.fit import export_checkpoint

    with reported(json_) as console:
        wanted = WantedIndex(index, max_index_mb)
        attributes = attributes_of(items, cold_share, catalogue)
        path, measured = export_checkpoint(
            checkpoint, Dataset.load(data), artifacts, wanted, attributes, repeats=repeats
        )
        tell_measured({"bundle": str(path), "test": measured.unmasked}, json_, console, str(path), "test")


@app.command(rich_help_panel="Models")
def blend(
    bundle: Annotated[list[Path], typer.Option(help="A member: a bundle's directory; once for each.")],
    data: DataOption,
    weights: Annotated[
        str,
        typer.Option(
            help="auto (validation chooses, if no member was trained on it), equal, or a number for each"
            " member, as in 0.5,0.3,0.2."
        ),
    ] = "auto",
    dim: Annotated[
        int | None,
        typer.Option(min=1, help="Map the vectors to so many dimensions.", show_default="all of them"),
    ] = None,
    index: IndexOption = "auto",
    max_index_mb: MaxIndexOption = None,
    repeats: RepeatsOption = True,
    threads: ThreadsOption = CORES,
    artifacts: ArtifactsOption = Path("artifacts"),
    publish: Annotated[bool, typer.Option("--publish", help="Make the new bundle the live one.")] = False,
    test: Annotated[bool, typer.Option("--test", help="Also measure it on the test sessions.")] = False,
    json_: JsonOption = False,
) -> None:
    """Make one bundle of several: it ranks by the weighted sum of their cosines.

    The members need the same item table, so train them on the same prepared data; model, dim, max_length and
    index may differ. What comes out is a bundle like any other, for `evaluate`, `publish` and the service; an
    answer costs the sum of the members' encoders. See docs/blends.md.
    """
    import torch

    from service.live.artifacts import Artifacts
    from service.live.deployment import publish as publish_version
    from service.ranking.bundle import Bundle
    from training.blending import blended
    from training.bundling.indexes import WantedIndex
    from training.data.dataset import Dataset

    with reported(json_) as console:
        torch.set_num_threads(threads)
        made = blended(
            [Bundle.load(each, threads) for each in bundle],
            Dataset.load(data),
            artifacts,
            weights=weights,
            dim=dim,
            index=WantedIndex(index, max_index_mb),
            repeats=repeats,
            test=test,
            tell=console.print,
        )
        if publish:
            publish_version(Artifacts.at(artifacts), made.bundle.name)
        if json_:
            print(json.dumps(made.told()))
            return
        for split, metrics in {"validation": made.validation, "test": made.test}.items():
            if metrics:
                console.print(
                    f"{split}: " + ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
                )
        console.print(f"{made.bundle}{'  (live)' if publish else ''}")
