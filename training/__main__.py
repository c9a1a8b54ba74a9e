"""`python -m training`: from a click log to a live bundle, one command a step."""

from __future__ import annotations

import typer

from training import (
    data_commands,
    live_commands,
    model_commands,
    publish_commands,
    result_commands,
    search_commands,
)

app = typer.Typer(
    help="Learn next-click recommendations from a click log, and put them live.",
    epilog="Exit codes: 0 done; 1 stopped by a check, the message says by which; 2 wrong input or options.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_commands.app)
app.add_typer(model_commands.app)
app.add_typer(publish_commands.app)
app.add_typer(live_commands.app)
app.add_typer(search_commands.app)
app.add_typer(result_commands.app)

if __name__ == "__main__":
    app()
