"""How a command ends: what is wrong is one line and an exit code; Ctrl-C and SIGTERM close what is open."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer
from rich.console import Console

INTERRUPTED = 130
TERMINATED = 143

# Errors that are told in one line, by where they are defined.
WRONG_INPUT = (
    "service.catalogue.attributes.CatalogueFileError",
    "service.catalogue.placements.PlacementError",
    "service.live.deployment.DeploymentError",
    "service.process.settings.SettingsError",
    "service.ranking.bundle.BundleError",
    "training.bundling.blend.BlendError",
    "training.bundling.content.ContentError",
    "training.bundling.teacher.TeacherError",
    "training.data.clicks.ClicksError",
    "training.data.dataset.DatasetError",
    "training.data.items.ItemsFileError",
    "training.learn.checkpoint.CheckpointError",
    "training.learn.devices.DeviceError",
    "training.learn.hyper.HyperError",
    "training.learn.registry.UnknownModelError",
    "training.loop.retrain.ConfigError",
    "training.loop.run_record.RunError",
    "training.measure.results.ResultError",
    "training.report.leaderboard.ReportError",
    "training.search.study.TuneError",
)
ANOTHER_TIME = (
    "service.live.object_store.ObjectStoreError",
    "training.learn.checkpoint.RunInUseError",
    "training.learn.train.DivergedError",
    "training.loop.collect.CollectError",
    "training.loop.items.ImportStoppedError",
    "training.loop.run_record.RunLockedError",
)
REFUSED = ("training.bundling.export.ExportError",)


def _loaded(errors: Sequence[str]) -> tuple[type[Exception], ...]:
    """Those whose modules are loaded: no other can have been raised, and to load torch takes seconds."""
    found = []
    for error in errors:
        module, _, name = error.rpartition(".")
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


@contextmanager
def reported(json_: bool, *, together: bool = False) -> Iterator[Console]:
    """A console that leaves stdout to JSON if asked; errors become one line and an exit code.

    Unless processes of torchrun work `together`, each would do the same to the same files: they are refused.
    2 for wrong input, 1 for a check that refused, or for what may go better another time.
    """
    console = Console(stderr=json_, highlight=False)
    try:
        if not together and "TORCHELASTIC_RUN_ID" in os.environ:
            _refuse_torchrun()
        yield console
    except _loaded(WRONG_INPUT) as error:
        fail(str(error), code=2)
    except _loaded(ANOTHER_TIME) as error:
        fail(str(error), code=1)
    except BrokenPipeError:  # whoever read what is printed is gone
        raise
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        fail(what, code=1)
    except _loaded(REFUSED) as error:
        typer.secho(f"refused: {error}", fg="red", err=True)
        raise typer.Exit(1) from error


def _refuse_torchrun() -> None:
    from training.learn.devices import DeviceError, torchrun_processes

    if torchrun_processes() > 1:
        raise DeviceError("under torchrun several processes can `train`; run this command without it")


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, and the exit code."""
    typer.secho(f"error: {message}", fg="red", err=True)
    raise typer.Exit(code)


@contextmanager
def terminated() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, with everything closed that is open."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tell_measured(
    result: dict[str, object],
    json_: bool,
    console: Console,
    headline: str,
    *splits: str,
) -> None:
    """The result as JSON, or a headline and the figures of its `splits`."""
    if json_:
        print(json.dumps(result))
        return
    console.print(headline, markup=False)
    for split in splits:
        measured = result.get(split)
        if isinstance(measured, dict):
            console.print(f"{split}: " + "  ".join(f"{name} {value:.2f}" for name, value in measured.items()))
