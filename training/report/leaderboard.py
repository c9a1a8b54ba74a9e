"""Reads what `train` left under RESULTS/<dataset>: every run on one data set, checked to be comparable."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.learn.cards import card
from training.learn.registry import UnknownModelError
from training.measure.metrics import MISSED, ranking_metrics
from training.measure.results import ResultError, TargetRanks, read_ranks, result_name

RESULT_NAME = re.compile(r"\w+(\.[\w-]+)?(\.seed\d+)?\.json")
NOT_RESULTS = {"popularity.json"}  # the command `popularity` writes it
MEASURED = ("recall@20", "mrr@20")  # what every result has, and its ranks must give again
TOLERANCE = 1e-6  # percent

Family = Literal["counted", "factorisation", "sequence", "session graph", "global graph"]
FAMILIES: tuple[Family, ...] = get_args(Family)


class ReportError(ResultError):
    """Results that cannot stand on one leaderboard; the message names the file and what differs."""


class LengthFigures(BaseModel):
    """Of the test cases whose prefix has a certain number of clicks."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    cases: int
    recall: float = Field(alias="recall@20")


class Result(BaseModel):
    """The fields of a result that are reported. None: the result is older than the field."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    model: str
    dataset: str
    command: str
    commit: str
    seed: int
    threads: int
    device: str = "cpu"
    trained_on: str
    epochs: int
    wall_seconds: float
    test_cases: int
    test: dict[str, float]
    test_without_seen_items: dict[str, float]
    title: str | None = None
    cited: str | None = None
    family: Family | None = None
    variant: str = ""
    n_items: int | None = None
    data_fingerprint: str | None = None
    peak_memory_mib: int | None = None
    parameters: int | None = None
    encode_microseconds: dict[str, float] | None = None
    rank_microseconds: dict[str, float] | None = None
    test_by_length: dict[str, LengthFigures] | None = None


@dataclass(frozen=True)
class Run:
    """One trained model: its result, and its ranks if they were kept."""

    file: Path
    result: Result
    ranks: TargetRanks | None


@dataclass(frozen=True)
class Entry:
    """All runs of one model, or of one variant of it, by seed."""

    model: str
    variant: str
    title: str
    cited: str
    family: Family
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Of this entry alone on a leaderboard."""
        return f"{self.model}.{self.variant}" if self.variant else self.model

    @property
    def first(self) -> Run:
        """The run of the lowest seed, 1 as a rule: whatever is no mean over seeds is of this one."""
        return self.runs[0]

    def mean(self, metric: str) -> float:
        """Of a test metric, over the seeds."""
        return float(np.mean([run.result.test[metric] for run in self.runs]))


@dataclass(frozen=True)
class Leaderboard:
    """Everything run on a data set: the highest mean Recall@20 first, ties by name."""

    dataset: str
    entries: tuple[Entry, ...]

    def times_compare(self, entry: Entry) -> bool:
        """Whether its times say something beside the others'.

        Where some were trained on a GPU and some not, the GPU's are of another machine, often a lent one.
        """
        devices = {each.first.result.device for each in self.entries if each.family != "counted"}
        return len(devices) < 2 or entry.first.result.device == "cpu"


def read_leaderboards(results: Path) -> list[Leaderboard]:
    """One for every directory under `results` that holds results. Raises `ReportError`."""
    places = sorted(place for place in results.iterdir() if place.is_dir()) if results.is_dir() else []
    boards = [read_leaderboard(place) for place in places if _result_files(place)]
    if not boards:
        raise ReportError(f"{results}: holds no results; `train --results {results}` writes them")
    return boards


def read_leaderboard(place: Path) -> Leaderboard:
    """The leaderboard of RESULTS/<dataset>. Raises `ReportError`."""
    runs = [_read_run(file) for file in _result_files(place)]
    _check_same_cases(runs)
    of_entry: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        of_entry.setdefault((run.result.model, run.result.variant), []).append(run)
    entries = [_entry(model, variant, runs) for (model, variant), runs in of_entry.items()]
    entries.sort(key=lambda entry: (-entry.mean("recall@20"), entry.name))
    return Leaderboard(place.name, tuple(entries))


def _result_files(place: Path) -> list[Path]:
    files = sorted(file for file in place.iterdir() if RESULT_NAME.fullmatch(file.name))
    return [file for file in files if file.name not in NOT_RESULTS]


def _entry(model: str, variant: str, runs: Sequence[Run]) -> Entry:
    by_seed = tuple(sorted(runs, key=lambda run: run.result.seed))
    first = by_seed[0].result
    title, cited, family = first.title, first.cited, first.family
    if not (title and cited and family):
        try:
            known = card(model, 1000)
        except UnknownModelError as error:
            raise ReportError(f"{by_seed[0].file}: has no title, cited and family, and {error}") from error
        title, cited, family = known.title, known.cited, known.family
    return Entry(model, variant, f"{title}, {variant}" if variant else title, cited, family, by_seed)


def _read_run(file: Path) -> Run:
    try:
        result = Result.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "not a result"
        raise ReportError(f"{file}: {field}: {first['msg']}") from error
    if result.dataset != file.parent.name:
        raise ReportError(f"{file}: is of data set {result.dataset}, not {file.parent.name}")
    name = result_name(result.model, result.seed, result.variant)
    if file.name != name:
        variant = f", {result.variant}" if result.variant else ""
        raise ReportError(
            f"{file}: is of {result.model}{variant}, seed {result.seed}: its name must be {name}"
        )
    for metric in MEASURED:
        if metric not in result.test:
            raise ReportError(f"{file}: test has no {metric}")
    ranks = read_ranks(file)
    if ranks:
        _check_ranks(result, file.with_suffix(".npz"), ranks)
    return Run(file, result, ranks)


def _check_ranks(result: Result, file: Path, kept: TargetRanks) -> None:
    """The ranks are those that the JSON beside them was made of."""
    if len(kept.ranks) != result.test_cases:
        raise ReportError(
            f"{file}: {len(kept.ranks)} ranks, {result.test_cases} test_cases in the JSON beside it"
        )
    measured = ranking_metrics(np.where(kept.ranks > 0, kept.ranks, MISSED))
    for metric in MEASURED:
        if abs(measured[metric] - result.test[metric]) > TOLERANCE:
            raise ReportError(
                f"{file}: its ranks give {metric} {measured[metric]:.6f},"
                f" the JSON beside it says {result.test[metric]:.6f}"
            )


def _check_same_cases(runs: Sequence[Run]) -> None:
    """All runs of a leaderboard answered the same test cases of the same data."""
    first: dict[str, tuple[Hashable, Path]] = {}
    for run in runs:
        comparable: dict[str, Hashable] = {
            "test_cases": run.result.test_cases,
            "n_items": run.result.n_items,
            "data_fingerprint": run.result.data_fingerprint,
        }
        for field, value in comparable.items():
            if value is not None:
                expected, file = first.setdefault(field, (value, run.file))
                if value != expected:
                    raise ReportError(f"{run.file}: {field} {value}, but {expected} in {file.name}")
    with_ranks = [run for run in runs if run.ranks]
    for run in with_ranks[1:]:
        assert run.ranks
        assert with_ranks[0].ranks
        if not np.array_equal(run.ranks.cases, with_ranks[0].ranks.cases):
            file, other = run.file.with_suffix(".npz"), with_ranks[0].file.with_suffix(".npz").name
            raise ReportError(f"{file}: cases differ from those in {other}: other test sessions")
