"""The catalogue, from a file and into one: items import, items export."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.commands.endings import INTERRUPTED, fail
from training.commands.live import log_to_stderr
from training.commands.options import ArtifactsOption, JsonOption

if TYPE_CHECKING:
    from service.catalogue.attributes import Schema
    from service.process.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The catalogue: bring a file of items in, or write one.")
MOST_TOLD = 100  # bad rows, one a line

SeparatorOption = Annotated[
    str, typer.Option(metavar="TEXT", help="CSV and TSV: stands between the entries of a list.")
]


@app.command("import", rich_help_panel="Items")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Its name ends in .csv, .tsv, .jsonl or .parquet; the first three may be packed: .csv.gz.",
        ),
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="NAME=COLUMN", help="The column of an attribute, or of item_id; repeatable."
        ),
    ] = None,
    separator: SeparatorOption = "|",
    encoding: Annotated[
        str, typer.Option(help="auto tells UTF-8 and UTF-16; others, such as windows-1252, must be said.")
    ] = "auto",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Delete the items that are not in FILE, unless a row is refused."),
    ] = False,
    rejected: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the refused rows here, as CSV.")
    ] = None,
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """Store the items of FILE in the catalogue, each in place of what it was.

    Columns that are no attributes are ignored, and named; catalogue.toml declares a shop's own. A row that is
    no item is named with its line and refused, and all others are stored. It may be killed at any time, and
    run again: what is there already is passed over. The service may run or not. Exit code 1: rows were
    refused, or Redis fails.
    """
    from training.data.items import BadRow, ItemsFileError, read_items
    from training.loop.items import Imported, ImportStoppedError, import_items

    log_to_stderr()
    refused: list[BadRow] = []

    def ignored(names: Sequence[str]) -> None:
        if names:
            typer.echo(f"ignored: {', '.join(names)}: no such attributes", err=True)

    def bad_row(row: BadRow) -> None:
        refused.append(row)
        if len(refused) <= MOST_TOLD:
            item = f" (item {row.item_id})" if row.item_id else ""
            typer.echo(f"{file}:{row.line}: {row.reason}{item}", err=True)
        if len(refused) == MOST_TOLD:
            typer.echo("further refused rows are only counted: --rejected FILE takes them all", err=True)

    def progress(done: Imported) -> None:
        if sys.stderr.isatty():
            typer.echo(f"\r{done.rows:,} rows", err=True, nl=False)

    with _told():
        settings, schema = _settings(artifacts)
        rows = read_items(
            file,
            schema,
            renamed=_renamed(columns or []),
            separator=separator,
            encoding=encoding,
            on_unknown=ignored,
        )
        try:
            done = import_items(settings, rows, replace=replace, on_bad_row=bad_row, on_batch=progress)
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on where it was", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except ImportStoppedError as error:
            fail(f"{error}; what is stored stays, and the same command goes on from there", code=1)
        finally:
            if sys.stderr.isatty():
                typer.echo("\r", err=True, nl=False)
        if rejected is not None:
            try:
                with rejected.open("w", encoding="utf-8", newline="") as stream:
                    csv.writer(stream).writerows([BadRow._fields, *refused])
            except OSError as error:
                raise ItemsFileError(f"{rejected}: {error}") from error
    if json_:
        counts = {"stored": done.stored, "unchanged": done.unchanged}
        print(json.dumps({**counts, "refused": done.refused, "deleted": done.deleted}))
    else:
        deleted = f", {done.deleted:,} deleted" if replace else ""
        print(f"{done.stored:,} items stored, {done.unchanged:,} were there already{deleted}")
    if done.refused:
        kept = "; nothing was deleted" if replace else ""
        fail(f"{done.refused:,} rows were refused; all others are stored{kept}", code=1)


@app.command(rich_help_panel="Items")
def export(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Its name ends in .csv, .tsv, .jsonl or .parquet.")
    ],
    separator: SeparatorOption = "|",
    artifacts: ArtifactsOption = Path("artifacts"),
    json_: JsonOption = False,
) -> None:
    """Write the catalogue to FILE, from which `import` makes the same again.

    Times are seconds since 1970. The service may run or not.
    """
    from training.loop.items import ImportStoppedError, export_items

    log_to_stderr()
    with _told():
        settings, schema = _settings(artifacts)
        try:
            count = export_items(settings, file, schema, separator=separator)
        except ImportStoppedError as error:
            fail(str(error), code=1)
    print(json.dumps({"items": count}) if json_ else f"{file}: {count:,} items")


@contextmanager
def _told() -> Iterator[None]:
    """Wrong input is one line, and exit code 2."""
    from service.catalogue.attributes import CatalogueFileError
    from service.process.settings import SettingsError
    from training.data.items import ItemsFileError

    try:
        yield
    except (CatalogueFileError, ItemsFileError, SettingsError) as error:
        fail(str(error), code=2)


def _settings(artifacts: Path) -> tuple[Settings, Schema]:
    from service.catalogue.attributes import Schema
    from service.process.settings import load_settings

    settings = load_settings().model_copy(update={"artifacts_dir": artifacts})
    return settings, Schema.of(settings)


def _renamed(columns: Sequence[str]) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for each in columns:
        attribute, equals, column = each.partition("=")
        if not (attribute and equals and column) or attribute in renamed:
            fail(f"--column {each}: must be NAME=COLUMN, each name once", code=2)
        renamed[attribute] = column
    return renamed
