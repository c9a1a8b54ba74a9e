"""Several bundles into one."""

# Commands import what they need when they run: `--help` shall not wait for torch.

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from training.commands.endings import reported
from training.commands.models import (
    CORES,
    ArtifactsOption,
    DataOption,
    IndexOption,
    JsonOption,
    MaxIndexOption,
    RepeatsOption,
    ThreadsOption,
)

app = typer.Typer(no_args_is_help=True)


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
