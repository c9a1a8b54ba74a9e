"""One tree of commands: `serve`, `console`, and all of training where its extra is installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Annotated

import typer
from rich.markup import escape

from nextclick import __version__

# The package, which the service's image lacks, and two libraries that only its extra brings.
TRAINING = ("training", "duckdb", "torch")
OF_SERVICE = ("serve", "console")  # what goes without
SERVICE_ALONE = "only the service is installed here; all other commands (prepare, train, publish, …) need:"
INSTALL = "pip install 'nextclick[train]'"
EXIT_CODES = "Exit codes: 0 done; 1 stopped by a check, the message says by which; 2 wrong input or options."


def run() -> None:
    """What was typed: `nextclick ...`."""
    complete = all(find_spec(name) is not None for name in TRAINING)
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "serve")
    if not complete and command not in OF_SERVICE:
        typer.secho(f"error: {command}: {SERVICE_ALONE} {INSTALL}", fg="red", err=True)
        sys.exit(2)
    tree(complete=complete)(prog_name="nextclick")


def tree(*, complete: bool) -> typer.Typer:
    """The commands that can run here: all, or the service's alone."""
    note = f"Note: {SERVICE_ALONE}\n\n{escape(INSTALL)}"
    app = typer.Typer(
        help="Next-click recommendations for anonymous shoppers: learn from a click log, and serve.",
        epilog=EXIT_CODES if complete else note,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    app.command(rich_help_panel="Service")(serve)
    if find_spec("console") is not None:  # the service's image lacks it
        from console.__main__ import console

        app.command(rich_help_panel="Service")(console)
    if complete:
        from training.__main__ import app as training

        app.add_typer(training)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nextclick {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


def serve(
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Listen here. (NEXTCLICK_HOST)")] = None,
    port: Annotated[str | None, typer.Option(metavar="N", help="TCP port. (NEXTCLICK_PORT)")] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N", help="Worker processes. (NEXTCLICK_WORKERS)")
    ] = None,
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Show every setting, and end.")
    ] = False,
) -> None:
    """Serve recommendations of the live bundle over HTTP, until Ctrl-C or SIGTERM.

    All else is set by NEXTCLICK_... variables in the environment; --print-settings lists them.
    """
    from service.__main__ import run as run_service

    raise typer.Exit(run_service(host, port, workers, print_settings=print_settings))
