"""Looking back: an answer that was given, again."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from training.commands.endings import fail
from training.commands.options import ArtifactsOption

app = typer.Typer(no_args_is_help=True)


@app.command(rich_help_panel="Live")
def replay(
    recommendation_id: Annotated[
        str, typer.Argument(metavar="RECOMMENDATION_ID", help="Of the answer, as the service gave it.")
    ],
    session: Annotated[
        str | None, typer.Option(help="The session that was answered; else all collected ones are searched.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="An item that the request excluded, or that was hidden then; once for each."),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            help="An answer's body that was kept: say whether its items were answered, whatever the stage.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    artifacts: ArtifactsOption = Path("artifacts"),
) -> None:
    """Give an answer again, from collected clicks and its bundle: the body of GET /recommend, byte for byte.

    The session, and what it held at that moment, go to stderr. Only answers of model and bundle can be given
    again, of stored sessions whose clicks are collected; why another one cannot is told, with exit code 1.
    What was trending, or clicked by others, can be checked against the id. Settings (NEXTCLICK_...) must be
    those of the service, its clicks in ARTIFACTS/clicks, the bundle in ARTIFACTS/bundles.
    """
    import msgspec

    from service.http.schemas import RecommendationAnswer, ScoredItem
    from service.live.deployment import DeploymentError
    from service.process.settings import SettingsError, load_settings
    from service.ranking.bundle import BundleError
    from training.data.clicks import ClicksError
    from training.measure.replay import ReplayError
    from training.measure.replay import check as check_answer
    from training.measure.replay import replay as answer_again

    try:
        settings = load_settings().model_copy(update={"artifacts_dir": artifacts})
        if check is not None:
            kept = msgspec.json.decode(check.read_bytes(), type=RecommendationAnswer)
            item_ids = [item.item_id for item in kept.items]
            moment = check_answer(settings, recommendation_id, item_ids, session)
            typer.echo(f"{moment}; these {len(item_ids)} items were answered then")
            return
        found = answer_again(settings, recommendation_id, session, exclude or ())
    except msgspec.MsgspecError as error:
        fail(f"{check}: is no body of an answer: {error}", code=2)
    except (BundleError, ClicksError, DeploymentError, SettingsError) as error:
        fail(str(error), code=2)
    except ReplayError as error:
        fail(str(error), code=1)
    typer.echo(f"{found.moment}; the model saw {len(found.encoded)} of them", err=True)
    answer = RecommendationAnswer(
        session_id=found.moment.session_id,
        recommendation_id=recommendation_id,
        version=found.version,
        stage=found.answer.stage,
        degraded=found.moment.degraded,
        ignored=list(found.ignored),
        items=[ScoredItem(*scored) for scored in found.answer.items],
    )
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
