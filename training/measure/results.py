"""What is known of a trained model: `<results>/<dataset>/<model>.json`, and the rank of every test case.

A run with another seed than 1 stands beside it as `<model>.seed<N>.json`, and a variant, which is the
model with other settings under a name of its own, as `<model>.<variant>.json`. The ranks are in
an `.npz` of the same name:

    ranks   uint8 (cases,): 1..20, 0 where the target was not among the 20
    cases   uint16 (sessions,): how many consecutive cases each test session has
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.live.deployment import replace_file
from service.ranking.bundle import Bundle
from training.data.dataset import Dataset
from training.learn.cards import card
from training.measure.evaluate import TOP, Evaluation
from training.measure.latency import encode_microseconds, rank_microseconds

UNREADABLE = (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, zlib.error)  # as np.load fails

Counts = npt.NDArray[np.int64]


class ResultError(ValueError):
    """A result cannot be written or read; the message names the file."""


@dataclass(frozen=True)
class TargetRanks:
    """Where the target of each test case stood; the cases of one session lie together."""

    ranks: Counts  # (cases,) 1..20; 0: not among the 20
    cases: Counts  # (sessions,) how many consecutive cases are of this session


@dataclass(frozen=True)
class Fitted:
    """What came of training or counting a model; a baseline that cannot be served has no bundle."""

    bundle: Path | None
    result: dict[str, object]
    evaluation: Evaluation | None  # None: the test sessions were not read


def headline(model: str, data: Dataset) -> dict[str, object]:
    """The part of a result that says what was trained, on what."""
    described = card(model, data.info.n_items)
    return {
        "model": model,
        "title": described.title,
        "cited": described.cited,
        "family": described.family,
        "dataset": data.info.name,
        "data_fingerprint": data.info.fingerprint,
        "n_items": data.info.n_items,
    }


def measurements(bundle: Bundle | None, data: Dataset, evaluation: Evaluation) -> dict[str, object]:
    """The measured part of a result: on the test sessions, and, of a bundle, on this machine's clock."""
    return {
        "test_cases": evaluation.cases,
        "test": evaluation.unmasked,
        "test_without_seen_items": evaluation.unseen_only,
        "test_by_length": evaluation.by_length(),
        "encode_microseconds": encode_microseconds(bundle) if bundle else None,
        "rank_microseconds": rank_microseconds(bundle, data.test) if bundle else None,
    }


def write_result(results: Path, fitted: Fitted) -> Path:
    """Write a run's JSON and ranks; returns where the JSON lies."""
    assert fitted.evaluation is not None, "a result is of the test sessions"
    result = fitted.result
    name = result_name(str(result["model"]), result["seed"], str(result.get("variant", "")))
    file = results / str(result["dataset"]) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    _write_ranks(file, fitted.evaluation)
    replace_file(file, json.dumps(result, indent=2).encode() + b"\n")
    return file


def measure_again(results: Path, bundle: Bundle, data: Dataset, evaluation: Evaluation) -> Path:
    """Replace the measured part of the result that is of this very bundle. Raises `ResultError`."""
    manifest = bundle.manifest
    place = results / data.info.name
    of_model = {file: _read(file) for file in place.glob(f"{manifest.model}.*json")}
    of_bundle = [file for file, result in of_model.items() if result.get("bundle") == manifest.version]
    if not of_bundle:
        others = [f"{file.name} is of {result.get('bundle')}" for file, result in sorted(of_model.items())]
        raise ResultError(
            f"{place}: no result of {manifest.version} to renew; {'; '.join(others) or 'none at all'}"
        )
    file = of_bundle[0]
    _write_ranks(file, evaluation)
    renewed = headline(manifest.model, data) | of_model[file] | measurements(bundle, data, evaluation)
    replace_file(file, json.dumps(renewed, indent=2).encode() + b"\n")
    return file


def _read(file: Path) -> dict[str, object]:
    try:
        result = json.loads(file.read_bytes())
    except ValueError as error:
        raise ResultError(f"{file}: cannot be read: {error}") from error
    if not isinstance(result, dict):
        raise ResultError(f"{file}: is no result")
    return result


def result_name(model: str, seed: object, variant: str = "") -> str:
    """The name of the file that the result of a model lies in."""
    return ".".join([model, *([variant] if variant else []), *([] if seed == 1 else [f"seed{seed}"]), "json"])


def read_ranks(result: Path) -> TargetRanks | None:
    """The ranks beside a result's JSON, None if they were not kept. Raises `ResultError`."""
    file = result.with_suffix(".npz")
    if not file.exists():
        return None
    try:
        with file.open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            found = {name: arrays[name] for name in ("ranks", "cases")}
    except UNREADABLE as error:
        raise ResultError(f"{file}: cannot be read: {error}") from error
    for name, array in found.items():
        if array.ndim != 1 or array.dtype.kind != "u":
            raise ResultError(f"{file}: {name} is {array.dtype} {array.shape}, not one row of counts")
    ranks, cases = found["ranks"].astype(np.int64), found["cases"].astype(np.int64)
    if ranks.max(initial=0) > TOP:
        raise ResultError(f"{file}: a rank of {ranks.max()}, beyond {TOP}")
    if len(ranks) != cases.sum():
        raise ResultError(f"{file}: {len(ranks)} ranks, {cases.sum()} cases of {len(cases)} sessions")
    return TargetRanks(ranks, cases)


def _write_ranks(file: Path, evaluation: Evaluation) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        ranks=np.where(evaluation.ranks <= TOP, evaluation.ranks, 0).astype(np.uint8),
        cases=evaluation.cases_of.astype(np.uint16),
    )
    replace_file(file.with_suffix(".npz"), buffer.getvalue())
