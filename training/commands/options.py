"""What several commands ask for alike."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from training.bundling.content import Attributes

DataOption = Annotated[Path, typer.Option("--data", help="A prepared data set: what `prepare` wrote.")]


def _directory(path: Path) -> Path:
    """A URL would silently become a directory of that name."""
    from service.process.settings import NO_DIRECTORY, looks_like_url

    if looks_like_url(str(path)):
        raise typer.BadParameter(f"{path}: {NO_DIRECTORY}")
    return path


ArtifactsOption = Annotated[
    Path,
    typer.Option(
        "--artifacts",
        callback=_directory,
        help="Holds bundles/, runs/, tune/ and deployment.json.",
        envvar="NEXTCLICK_ARTIFACTS_DIR",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")
]
IndexOption = Annotated[
    Literal["auto", "flat", "hnsw", "ivf-sq", "ivf-pq"],
    typer.Option("--index", help="auto: whichever is measured to be fastest at recall@20 >= 0.99."),
]
MaxIndexOption = Annotated[
    float | None,
    typer.Option(
        "--max-index-mb", min=0, help="Millions of bytes that the index may take.", show_default="any"
    ),
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="Processor threads; part of a run's identity.")
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda or cuda:N, to train on.")
]
DevicesOption = Annotated[
    int | None,
    typer.Option(
        "--devices",
        min=1,
        help="GPUs, or on cpu processes, that train one model together.",
        show_default="1, or what torchrun started",
    ),
]
ItemsOption = Annotated[
    Path | None,
    typer.Option(
        "--items",
        help="Items with attributes (.csv, .jsonl, .parquet), so that new ones are answered, too.",
    ),
]
ColdShareOption = Annotated[
    float | None,
    typer.Option(
        "--cold-share",
        min=0.01,
        max=10,
        help="With --items: how much of the answers new items get, as a multiple of their share of clicks.",
        show_default="as much as finds most clicks of all",
    ),
]
CatalogueOption = Annotated[
    Path | None,
    typer.Option(
        "--catalogue",
        help="Declares a shop's own attributes.",
        envvar="NEXTCLICK_CATALOGUE_FILE",
        show_default="catalogue.toml, if there is one",
    ),
]
RepeatsOption = Annotated[
    bool,
    typer.Option(
        "--repeats/--no-repeats",
        help="Fit on validation what is added to the scores of items that a session holds already.",
    ),
]
CORES = os.cpu_count() or 1


def attributes_of(items: Path | None, cold_share: float | None, catalogue: Path | None) -> Attributes | None:
    """What --items, --cold-share and --catalogue name. Raises what reading them does."""
    from service.catalogue.attributes import FILE, Schema
    from training.bundling.content import Attributes
    from training.data.items import all_items

    if items is None:
        return None
    schema = Schema.read(catalogue or (FILE if FILE.exists() else None))
    return Attributes(schema.kinds, all_items(items, schema), cold_share)


def as_typed() -> str:
    """The command that runs, to be run again."""
    return "python -m training " + shlex.join(sys.argv[1:])
