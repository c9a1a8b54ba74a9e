"""Looking back: an answer that was given, again."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from training.commands.data import fail
from training.commands.models import ArtifactsOption

app = typer.Typer(no_args_is_help=True)


@app.command(rich_help_panel="Live")
def replay(
    recommendation_id: Annotated[
        str, typer.Argument(metavar="RECOMMENDATION_ID", help="Of the answer, as the service gave it.")
    ],
    session: Annotated[
        str | None, typer.Option(help="The session that was answered; else all collected ones are searched.")
    ] = None,
    artifacts: ArtifactsOption = Path("artifacts"),
) -> None:
    """Give an answer again, from collected clicks and its bundle: the body of GET /recommend, byte for byte.

    The session, and what it held at that moment, go to stderr. Only answers of the stage model can be given
    again, of stored sessions whose clicks are collected; why another one cannot is told, with exit code 1.
    Settings (NEXTCLICK_...) must be those of the service, its clicks in ARTIFACTS/clicks, the bundle in
    ARTIFACTS/bundles.
    """
    from datetime import UTC, datetime

    import msgspec

    from service.http.schemas import RecommendationAnswer, ScoredItem
    from service.live.deployment import DeploymentError
    from service.process.settings import SettingsError, load_settings
    from service.ranking.bundle import BundleError
    from training.data.clicks import ClicksError
    from training.measure.replay import ReplayError
    from training.measure.replay import replay as answer_again

    try:
        settings = load_settings().model_copy(update={"artifacts_dir": artifacts})
        found = answer_again(settings, recommendation_id, session)
    except (BundleError, ClicksError, DeploymentError, SettingsError) as error:
        fail(str(error), code=2)
    except ReplayError as error:
        fail(str(error), code=1)
    newest = found.clicks[-1]
    at = datetime.fromtimestamp(newest.timestamp, UTC)
    typer.echo(
        f"session {found.session_id!r} held {len(found.clicks)} clicks, the newest on {newest.item_id!r} at "
        f"{at:%Y-%m-%d %H:%M:%S} UTC; the model saw {len(found.encoded)} of them",
        err=True,
    )
    answer = RecommendationAnswer(
        session_id=found.session_id,
        recommendation_id=recommendation_id,
        version=found.version,
        stage="model",
        degraded=False,
        ignored=list(found.ignored),
        items=[ScoredItem(*scored) for scored in found.items],
    )
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
