"""What is live: publish, withdraw, rollback."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from training.commands.endings import reported
from training.commands.options import ArtifactsOption, JsonOption

if TYPE_CHECKING:
    from service.live.deployment import Deployment

app = typer.Typer(no_args_is_help=True)
SHARE = 0.1  # of the sessions, for a trial


@app.command(rich_help_panel="Live")
def publish(
    bundle: Annotated[
        str, typer.Option(help="A bundle's directory under ARTIFACTS/bundles, or its version.")
    ],
    challenger: Annotated[
        bool,
        typer.Option(
            "--challenger", help="Let it answer a share of the sessions, and the live bundle the others."
        ),
    ] = False,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Score it on a share of the sessions; nobody sees its answers.")
    ] = False,
    share: Annotated[
        float | None,
        typer.Option(
            help="With --challenger or --shadow: of the sessions, up to 1.", show_default=str(SHARE)
        ),
    ] = None,
    exclude_seen: Annotated[
        bool | None,
        typer.Option(
            "--exclude-seen/--include-seen",
            help="Whether answers leave out what the session clicked.",
            show_default="as before",
        ),
    ] = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """Verify a bundle and make it the live one, or try it out; every worker follows within seconds."""
    from service.live import deployment
    from service.live.artifacts import Artifacts, fetch_bundle
    from service.live.deployment import DeploymentError, bundle_path
    from service.ranking.bundle import Bundle, BundleError

    with reported(json_) as console:
        role = _role(challenger, shadow)
        if role is None and share is not None:
            raise DeploymentError("--share is for --challenger and --shadow: the live bundle has the rest")
        if role is not None and exclude_seen is not None:
            raise DeploymentError("--exclude-seen and --include-seen are for all sessions, not for a share")
        version = Path(bundle).name
        place = bundle_path(artifacts, version)
        if Path(bundle).name != bundle and Path(bundle).resolve() != place.resolve():
            raise BundleError(f"{bundle}: a bundle is published from {place.parent}")
        shared = Artifacts.at(artifacts)
        fetch_bundle(shared, version)
        found = Bundle.load(place).manifest.version
        if found != version:
            raise BundleError(f"{place}: its manifest says version {found}")
        if role is None:
            deployed = deployment.publish(shared, version, exclude_seen=exclude_seen)
            _report(deployed, f"{version} is live", json_, console)
            return
        share = SHARE if share is None else share
        if role == "challenger":
            deployed = deployment.challenge(shared, version, share)
        else:
            deployed = deployment.shadow(shared, version, share)
        _report(deployed, f"{version} is the {role} of {share:.0%}", json_, console)


@app.command(rich_help_panel="Live")
def withdraw(
    challenger: Annotated[bool, typer.Option("--challenger", help="The one that answers a share.")] = False,
    shadow: Annotated[bool, typer.Option("--shadow", help="The one that is scored unseen.")] = False,
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """End the trial of the challenger or of the shadow."""
    from service.live import deployment
    from service.live.artifacts import Artifacts
    from service.live.deployment import DeploymentError, read_deployment

    with reported(json_) as console:
        role = _role(challenger, shadow)
        if role is None:
            raise DeploymentError("say which to withdraw: --challenger or --shadow")
        shared = Artifacts.at(artifacts)
        old = read_deployment(shared)
        version = old.challenger if role == "challenger" else old.shadow
        deployed = deployment.withdraw(shared, role)
        _report(deployed, f"{version} is the {role} no longer", json_, console)


@app.command(rich_help_panel="Live")
def rollback(artifacts: ArtifactsOption = Path("artifacts"), json_: JsonOption = False) -> None:
    """Make the previous version live again."""
    from service.live import deployment
    from service.live.artifacts import Artifacts, fetch_bundle
    from service.live.deployment import bundle_path, read_deployment
    from service.ranking.bundle import Bundle

    with reported(json_) as console:
        shared = Artifacts.at(artifacts)
        previous = read_deployment(shared).previous
        if previous is not None:
            fetch_bundle(shared, previous)
            Bundle.load(bundle_path(artifacts, previous))  # a bundle that cannot be served stays where it is
        deployed = deployment.rollback(shared)
        _report(deployed, f"{previous} is live", json_, console)


def _role(challenger: bool, shadow: bool) -> Literal["challenger", "shadow"] | None:
    from service.live.deployment import DeploymentError

    if challenger and shadow:
        raise DeploymentError("--challenger and --shadow: a bundle has one role")
    return "challenger" if challenger else "shadow" if shadow else None


def _report(deployed: Deployment, headline: str, json_: bool, console: Console) -> None:
    """Tell the user what holds now."""
    if json_:
        print(json.dumps(deployed.model_dump()))
    else:
        console.print(headline, markup=False)
