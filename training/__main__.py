"""`python -m training`: from a click log to a live bundle, one command a step."""

from __future__ import annotations

import inspect
import re

import typer

from training.commands import (
    bundles,
    data,
    demo,
    items,
    live,
    placements,
    publish,
    replay,
    results,
    search,
    train,
    try_,
)

app = typer.Typer(
    help="Learn next-click recommendations from a click log, and put them live.",
    epilog="Exit codes: 0 done; 1 stopped by a check, the message says by which; 2 wrong input or options.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (demo, try_, data, train, bundles, results, publish, placements, live, replay, search, items):
    for command in commands.app.registered_commands:
        # Paragraphs, however wide the terminal is: typer breaks lines where the source does.
        told = inspect.getdoc(command.callback) or ""
        command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", told)
    if commands is not items:
        app.add_typer(commands.app)
app.add_typer(items.app, name="items", rich_help_panel="Live")

if __name__ == "__main__":
    app()
