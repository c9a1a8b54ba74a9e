"""`python -m console`, and the door of `nextclick console`."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

INSTALL = "pip install 'nextclick[console]'"


def console(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Listen here.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="TCP port; 0 takes a free one.")] = 8080,
    service: Annotated[str, typer.Option(metavar="URL", help="The service.")] = "http://127.0.0.1:8000",
    metrics: Annotated[
        str, typer.Option(metavar="URL", help="Its metrics.")
    ] = "http://127.0.0.1:9464/metrics",
    artifacts: Annotated[
        Path, typer.Option(metavar="DIR", help="What service and trainer share; may be missing.")
    ] = Path("artifacts"),
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How often to look at the metrics.")
    ] = 5.0,
) -> None:
    """Show the operator's pages to a browser, until Ctrl-C or SIGTERM.

    They ask for the admin key (NEXTCLICK_ADMIN_API_KEY of the service).
    """
    if find_spec("nicegui") is None or find_spec("httpx") is None:
        typer.secho(f"error: the console needs more than the service: {INSTALL}", fg="red", err=True)
        raise typer.Exit(2)
    # NiceGUI reads it when it is imported. Nothing is written there, nor where the command was typed.
    with tempfile.TemporaryDirectory(prefix="nextclick-console-") as nowhere:
        os.environ["NICEGUI_STORAGE_PATH"] = nowhere
        from console.app import Options, run

        found = artifacts if artifacts.is_dir() else None
        raise typer.Exit(run(Options(host, port, service.rstrip("/"), metrics, found, every)))


def main() -> None:
    typer.run(console)


if __name__ == "__main__":
    main()
