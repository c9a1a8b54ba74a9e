"""Placements: what each place of the shop is answered; kept in deployment.json, as what is live is."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from training.commands.endings import reported
from training.commands.options import ArtifactsOption, JsonOption

if TYPE_CHECKING:
    from service.catalogue.placements import PlacementVersion
    from service.live.deployment import Deployment

app = typer.Typer(no_args_is_help=True)
placements = typer.Typer(no_args_is_help=True, help="What each place of the shop is answered.")
app.add_typer(placements, name="placements", rich_help_panel="Live")
BY = "command"

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="As in ?placement=NAME.")]


@placements.command("list")
def list_(artifacts: ArtifactsOption = Path("artifacts"), json_: JsonOption = False) -> None:
    """Every placement, its version, and who wrote it when."""
    from service.live.artifacts import Artifacts
    from service.live.deployment import read_deployment

    with reported(json_) as console:
        found = read_deployment(Artifacts.at(artifacts)).placements
        if json_:
            print(json.dumps([_told(name, history[-1]) for name, history in found.items()]))
        else:
            console.print(_table("placement", {name: history[-1] for name, history in found.items()}))


@placements.command()
def show(name: NameArgument, artifacts: ArtifactsOption = Path("artifacts")) -> None:
    """A placement as JSON, as `set` takes it."""
    with reported(False):
        placement = _versions(artifacts, name)[-1].placement
        print(json.dumps(placement.model_dump(exclude_defaults=True), indent=2))


@placements.command("set")
def set_(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The placement, JSON; - reads stdin.")],
    catalogue: Annotated[
        Path | None,
        typer.Option(
            help="What the shop declares of its items.",
            envvar="NEXTCLICK_CATALOGUE_FILE",
            show_default="catalogue.toml, if there is one",
        ),
    ] = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """Check a placement and make it the one of that name; every worker follows within seconds."""
    from pydantic import ValidationError

    from service.catalogue.attributes import FILE, Schema
    from service.catalogue.placements import Placement, PlacementError, prepare
    from service.live import deployment
    from service.live.artifacts import Artifacts

    with reported(json_) as console:
        schema = Schema.read(catalogue or (FILE if FILE.exists() else None))
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        try:
            placement = Placement.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise PlacementError(field or str(file), first["msg"]) from None
        prepare(name, placement, schema.kinds)
        _report(deployment.set_placement(Artifacts.at(artifacts), name, placement, BY), name, json_, console)


@placements.command()
def delete(
    name: NameArgument, artifacts: ArtifactsOption = Path("artifacts"), json_: JsonOption = False
) -> None:
    """Forget a placement and its history; who asks for it is told that there is none."""
    from service.live import deployment
    from service.live.artifacts import Artifacts

    with reported(json_) as console:
        deployed = deployment.delete_placement(Artifacts.at(artifacts), name)
        if json_:
            print(json.dumps({"placements": sorted(deployed.placements)}))
        else:
            console.print(f"{name} is deleted", markup=False)


@placements.command()
def history(
    name: NameArgument, artifacts: ArtifactsOption = Path("artifacts"), json_: JsonOption = False
) -> None:
    """The versions of a placement that are kept, the newest first."""
    with reported(json_) as console:
        versions = _versions(artifacts, name)[::-1]
        if json_:
            print(json.dumps([_told(name, version) for version in versions]))
        else:
            console.print(_table("version", {str(version.number): version for version in versions}))


@placements.command()
def rollback(
    name: NameArgument,
    to: Annotated[
        int | None, typer.Option(min=1, help="A version of its history.", show_default="the one before")
    ] = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """Let a placement be what it was; that is a new version, and can be rolled back as well."""
    from service.live import deployment
    from service.live.artifacts import Artifacts

    with reported(json_) as console:
        _report(deployment.rollback_placement(Artifacts.at(artifacts), name, BY, to), name, json_, console)


def _versions(artifacts: Path, name: str) -> tuple[PlacementVersion, ...]:
    from service.live.artifacts import Artifacts
    from service.live.deployment import history_of, read_deployment

    return history_of(read_deployment(Artifacts.at(artifacts)), name)


def _told(name: str, version: PlacementVersion) -> dict[str, object]:
    return {"name": name, **version.model_dump(mode="json")}


def _report(deployed: Deployment, name: str, json_: bool, console: Console) -> None:
    version = deployed.placements[name][-1]
    if json_:
        print(json.dumps(_told(name, version)))
    else:
        console.print(f"{name} is at version {version.number}", markup=False)


def _table(first: str, rows: dict[str, PlacementVersion]) -> Table:
    from datetime import UTC, datetime

    table = (
        Table(first, "version", "at (UTC)", "by", "what it says")
        if first != "version"
        else Table(first, "at (UTC)", "by", "what it says")
    )
    for name, version in rows.items():
        at = datetime.fromtimestamp(version.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        says = ", ".join(version.placement.model_dump(exclude_defaults=True)) or "nothing"
        numbers = () if first == "version" else (str(version.number),)
        table.add_row(name, *numbers, at, version.by, says)
    return table
