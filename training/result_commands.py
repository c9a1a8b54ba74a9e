"""From results to what people read of them: report."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from training.model_commands import JsonOption, reported

app = typer.Typer(no_args_is_help=True)


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="As `train --results` left it; docs/results, say.")],
    json_: JsonOption = False,
) -> None:
    """Write RESULTS/<dataset>/README.md, the leaderboard of all that was run there, and pictures beside it.

    Reads RESULTS alone: no data set, no bundle. Files whose content would be the same stay untouched.
    """
    from training.report import known_models, write_reports

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
