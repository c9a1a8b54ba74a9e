"""Which model suits these clicks: candidates are trained within a budget, and validation chooses.

Each one is trained on the training sessions, and judged on the validation sessions as it would be served,
with the scores for repeats that they give it. What came of each is kept beside the checkpoints, so that a
choice that was cut short goes on at the candidate where it was, and `fit` goes on from the checkpoint of the
one that was chosen.

    auto-seed1/
        choice.json      what came of each candidate, and which one was chosen
        niser/           its checkpoint and curves
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic_core import to_jsonable_python

from models.base import SessionEncoder
from service.live.deployment import replace_file
from service.ranking.ranker import Ranked, newest
from service.ranking.repeats import Repeats
from service.ranking.retriever import Items, Retriever, Vectors
from training.bundling.export import served_item_vectors, served_session_vectors
from training.bundling.repeats import fit_repeats
from training.data.dataset import Dataset
from training.fit import FitOptions, check_targets, learn
from training.learn.checkpoint import CheckpointError, alone_in
from training.learn.train import DivergedError, Watcher
from training.measure.evaluate import TOP, evaluate_counted
from training.search.candidates import UNJUDGED, Resolved

FILE = "choice.json"
RECALL, MRR = f"recall@{TOP}", f"mrr@{TOP}"


class Found(BaseModel):
    """What came of one candidate; percent, on the validation sessions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    state: Literal["judged", "failed", "not tried"]
    recall: float | None = None
    mrr: float | None = None
    mrr_without: float | None = None  # the scores for repeats
    epochs: int = 0  # none: it was counted
    seconds: float = 0.0  # to train and to judge it
    reason: str | None = None  # why it was not judged

    @property
    def told(self) -> str:
        """In one line."""
        if self.recall is None or self.mrr is None:
            return f"{self.model}: {self.state}: {self.reason}"
        without = f" ({self.mrr_without:.2f} without scores for repeats)" if self.mrr_without else ""
        return (
            f"{self.model}: validation Recall@{TOP} {self.recall:.2f}, MRR@{TOP} {self.mrr:.2f}{without},"
            f" {self.seconds:.0f} s"
        )


class _Kept(BaseModel):
    """choice.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, JsonValue] = {}  # under which each was judged, by model
    found: tuple[Found, ...] = ()
    chosen: str | None = None


@dataclass(frozen=True)
class Choice:
    """The model that was chosen, and what came of all candidates; of none where nothing was to judge by."""

    model: str
    found: tuple[Found, ...] = ()


@dataclass(frozen=True)
class _Served:
    """A trained model that ranks as its bundle would, by exact search."""

    model: SessionEncoder
    retriever: Retriever
    repeats: Repeats | None

    @property
    def n_items(self) -> int:
        return self.retriever.n_items

    def search(self, sessions: Items, k: int) -> Ranked:
        rows = [row[row > 0].tolist() for row in newest(sessions, self.model.max_length)]
        vectors = served_session_vectors(self.model, rows)
        if self.repeats is None:
            return self.retriever.search(vectors, k)
        return self.repeats.search(self.retriever, vectors, rows, k)


def options_of(
    settings: Mapping[str, Resolved], options: FitOptions, directory: Path
) -> dict[str, FitOptions]:
    """Each model's own of what is decided for all; attributes of items say nothing to what is counted."""
    return {
        name: dataclasses.replace(
            options,
            recipe=recipe,
            hyper=hyper,
            checkpoints=directory / name,
            attributes=options.attributes if recipe else None,
        )
        for name, (recipe, hyper) in settings.items()
    }


def choose(
    candidates: Mapping[str, FitOptions],
    data: Dataset,
    directory: Path,
    budget_seconds: float,
    watcher: Watcher,
    *,
    resume: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """The best of `candidates`, which are tried in their order, by validation MRR@20; of equals the first.

    Once one is judged, no other is begun when the budget is spent, by this process or earlier ones of the
    same choice; one that was begun is trained to its end. What they leave lies in `directory`. Without
    validation sessions nothing is tried: it is NISER+ then. Raises `CheckpointError`, `DatasetError`,
    `DivergedError` when none of them learned anything, `RunInUseError`.
    """
    check_targets(data, test=False)
    if not data.validation.n_targets:
        watcher.on_step(
            f"no session is held back for validation: no model can be chosen, {UNJUDGED} is taken"
        )
        return Choice(UNJUDGED)
    with alone_in(directory):
        file = directory / FILE
        if not resume:
            _remove(directory, candidates)
        kept = _read(file, candidates)
        _check_same(kept, candidates, data, file)
        if kept.chosen is not None:
            return Choice(kept.chosen, kept.found)
        began, spent = clock(), sum(found.seconds for found in kept.found)
        done = {found.model for found in kept.found}
        for number, (name, options) in enumerate(candidates.items(), 1):
            if name in done:
                continue
            is_any = any(found.mrr is not None for found in kept.found)
            if is_any and spent + clock() - began >= budget_seconds:
                why = f"the budget of {budget_seconds / 60:g} minutes is spent"
                found = Found(model=name, state="not tried", reason=why)
            else:
                watcher.on_step(f"candidate {number} of {len(candidates)}: {name}")
                found = _try(name, data, options, watcher, clock)
            watcher.on_step(found.told)
            kept = _Kept(
                settings={**kept.settings, name: _settings(options, data)}, found=(*kept.found, found)
            )
            _write(file, kept)
        best = max(kept.found, key=lambda found: -1.0 if found.mrr is None else found.mrr)
        if best.mrr is None:
            raise DivergedError("; ".join(found.told for found in kept.found))
        watcher.on_step(f"chosen: {best.model}")
        _write(file, kept.model_copy(update={"chosen": best.model}))
        return Choice(best.model, kept.found)


def _try(
    name: str, data: Dataset, options: FitOptions, watcher: Watcher, clock: Callable[[], float]
) -> Found:
    """Train or count a candidate, from its checkpoint if there is one, and judge it."""
    began = clock()
    options = dataclasses.replace(options, refit=False, refit_epochs=None, test=False, resume=True)
    try:
        learned = learn(name, data, options, watcher)
    except DivergedError as error:
        return Found(model=name, state="failed", seconds=clock() - began, reason=str(error))
    metrics = without = learned.validation
    assert metrics is not None, "there are validation sessions"
    if isinstance(learned.model, SessionEncoder):
        watcher.on_step(f"judging {name} on the validation sessions, as it is served")
        metrics = evaluate_counted(
            _served(learned.model, data, options.repeats), data, data.validation
        ).unmasked
    else:
        without = None
    return Found(
        model=name,
        state="judged",
        recall=metrics[RECALL],
        mrr=metrics[MRR],
        mrr_without=without[MRR] if without else None,
        epochs=learned.epochs,
        seconds=max(clock() - began, learned.seconds),  # the latter with what earlier processes took
    )


def _served(model: SessionEncoder, data: Dataset, repeats: bool) -> _Served:
    retriever = Retriever.build(served_item_vectors(model), "flat")
    encode: Callable[[list[list[int]]], Vectors] = partial(served_session_vectors, model)
    table = fit_repeats(retriever, encode, data.validation, model.max_length) if repeats else None
    return _Served(model, retriever, Repeats.of(table, model.max_length) if table else None)


def _settings(options: FitOptions, data: Dataset) -> dict[str, JsonValue]:
    """All that decides how a candidate is judged."""
    settings: dict[str, JsonValue] = to_jsonable_python(
        {
            "data": data.info.fingerprint,
            "seed": options.seed,
            "recipe": dataclasses.asdict(options.recipe) if options.recipe else None,
            "hyper-parameters": options.hyper,
            "precision": options.precision,
            "threads": options.threads,
            "device": options.fabric.device.type if options.fabric else "cpu",
            "repeats": options.repeats,
            "start": options.start.version if options.start else None,
        }
    )
    return settings


def _check_same(kept: _Kept, candidates: Mapping[str, FitOptions], data: Dataset, file: Path) -> None:
    """Raises `CheckpointError` when candidates were judged otherwise than they would be now."""
    for name, theirs in kept.settings.items():
        ours = _settings(candidates[name], data)
        assert isinstance(theirs, dict)
        changed = [key for key in ours if ours[key] != theirs.get(key)]
        if changed:
            differences = "; ".join(f"{key} was {theirs.get(key)!r}, is {ours[key]!r}" for key in changed)
            raise CheckpointError(f"{file}: {name} was judged under other settings: {differences}")


def _read(file: Path, candidates: Mapping[str, FitOptions]) -> _Kept:
    """What is known of these; what was a candidate then may be none now, as the live model may be another."""
    try:
        kept = _Kept.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return _Kept()
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]["msg"]
        raise CheckpointError(f"{file}: {detail}: move its directory away") from error
    return _Kept(
        settings={name: each for name, each in kept.settings.items() if name in candidates},
        found=tuple(found for found in kept.found if found.model in candidates),
        chosen=kept.chosen if kept.chosen in candidates else None,
    )


def _write(file: Path, kept: _Kept) -> None:
    replace_file(file, kept.model_dump_json(indent=1).encode() + b"\n")


def _remove(directory: Path, candidates: Mapping[str, FitOptions]) -> None:
    """What an earlier choice has left."""
    (directory / FILE).unlink(missing_ok=True)
    for name in candidates:
        shutil.rmtree(directory / name, ignore_errors=True)
