"""A search that was interrupted ends as one that was not, and no search looks at the test sessions."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from typer.testing import CliRunner, Result

from models.sessions import Sessions
from tests.training.interrupts import heed_interrupts, no_further_checkpoint
from tests.training.planted import planted_dataset
from tests.waiting import DEADLINE_SECONDS
from training.__main__ import app
from training.data.dataset import Dataset
from training.learn.checkpoint import Phase, RunConfig
from training.learn.hyper import resolve
from training.learn.registry import find_model
from training.learn.train import Progress, train_phase
from training.measure.validation import validation_on
from training.search.space import search_space
from training.search.study import FILE, LOCK, STUDY, TuneError, open_study
from training.search.tune import TuneOptions, study_path, tune

FIXED = ["dim=8", "batch_size=64", "epochs=3"]
SEARCH = ["lr=1e-6..0.05", "dropout_hidden=0..0.5"]
TRIALS = 9

# Adds trials until they spill from memory to the file, and kills itself before they are committed.
HALF_WRITTEN = """
import os, signal, sqlite3, sys

study = sqlite3.connect(sys.argv[1])
study.execute("PRAGMA cache_size = 1")
insert = "INSERT INTO trials (number, study_id, state) VALUES (?, 1, 'RUNNING')"
study.executemany(insert, [[number] for number in range(9999)])
os.kill(os.getpid(), signal.SIGKILL)
"""


class Watch:
    """Notes every trial, epoch and step, and interrupts where it is told to."""

    def __init__(self, interrupt: tuple[Any, ...] | None = None) -> None:
        self.interrupt = interrupt
        self.trial = -1
        self.steps: list[tuple[Any, ...]] = []
        self.epochs: list[tuple[Any, ...]] = []

    def on_phase(self, phase: Phase, epochs: int) -> None: ...

    def on_step(self, text: str) -> None:
        if ":" in text:
            self.trial = int(text.split()[1].removesuffix(":"))

    def on_progress(self, progress: Progress) -> None:
        self.steps.append((self.trial, progress.epoch))
        if self.interrupt == ("step", self.trial, progress.epoch):
            raise KeyboardInterrupt

    def on_epoch(self, phase: Phase, record: dict[str, float]) -> None:
        self.epochs.append((self.trial, int(record["epoch"])))
        if self.interrupt == ("epoch", self.trial, int(record["epoch"])):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return planted_dataset(tmp_path_factory.mktemp("tune") / "data")


def search(
    data: Dataset,
    artifacts: Path,
    *,
    model: str = "gru",
    fixed: Sequence[str] = FIXED,
    searches: Sequence[str] = SEARCH,
    trials: int = TRIALS,
    watch: Watch | None = None,
) -> list[FrozenTrial]:
    space = search_space(find_model(model), fixed, searches)
    options = TuneOptions(fixed, space, trials, seed=3, precision="32", threads=1, artifacts=artifacts)
    return tune(model, data, options, watch or Watch())


@pytest.fixture(scope="module")
def uninterrupted(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[FrozenTrial]]:
    """Where the artifacts are, and what the trials gave."""
    artifacts = tmp_path_factory.mktemp("uninterrupted")
    return artifacts, search(data, artifacts)


def outcomes(trials: list[FrozenTrial]) -> list[dict[str, object]]:
    """All of the trials but when they ran."""
    return [
        {
            "number": t.number,
            "state": t.state,
            "params": t.params,
            "values": t.values,
            "epochs": t.intermediate_values,
            "attributes": t.user_attrs,
        }
        for t in trials
    ]


def kept(artifacts: Path, model: str = "gru") -> list[FrozenTrial]:
    """What is on disk, read with optuna alone."""
    storage = RDBStorage(f"sqlite:///{study_path(artifacts, 'planted', model) / FILE}")
    try:
        return optuna.load_study(study_name=STUDY, storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()


def arguments(data: Dataset, artifacts: Path, *more: str, searches: Sequence[str] = SEARCH) -> list[str]:
    """`tune` from the command line as `search` does it."""
    words = ["tune", "--data", str(data.path), "--model", "gru", "--artifacts", str(artifacts)]
    words += [word for each in FIXED for word in ("--set", each)]
    words += [word for each in searches for word in ("--search", each)]
    return [*words, "--seed", "3", "--precision", "32", "--threads", "1", "--trials", str(TRIALS), *more]


def run(words: list[str]) -> Result:
    return CliRunner().invoke(app, words)


def test_the_best_is_the_best_of_those_kept_and_can_be_trained(
    data: Dataset, uninterrupted: tuple[Path, list[FrozenTrial]], tmp_path: Path
) -> None:
    artifacts, trials = uninterrupted
    assert outcomes(kept(artifacts)) == outcomes(trials)
    written = (study_path(artifacts, "planted", "gru") / FILE).read_bytes()
    result = run(arguments(data, artifacts, "--json"))
    assert result.exit_code == 0, result.output
    assert (study_path(artifacts, "planted", "gru") / FILE).read_bytes() == written
    told = json.loads(result.stdout)
    best = max((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: cast(float, t.value))
    assert told["best"]["trial"] == best.number
    assert told["best"]["parameters"] == best.params
    assert told["best"]["mrr@20"] == best.value
    assert sum(told["trials"].values()) == TRIALS
    command = told["command"].split()
    assert command[:4] == ["python", "-m", "training", "train"]
    trained = run([*command[3:], "--artifacts", str(tmp_path), "--json"])
    assert trained.exit_code == 0, trained.output
    epochs = json.loads(trained.stdout)["history"]["select"]
    assert max(epoch["mrr@20"] for epoch in epochs) == best.value
    assert [epoch["recall@20"] for epoch in epochs][told["best"]["epoch"] - 1] == told["best"]["recall@20"]


def test_the_models_own_settings_come_first(
    data: Dataset, uninterrupted: tuple[Path, list[FrozenTrial]], tmp_path: Path
) -> None:
    model = find_model("gru")
    recipe, hyper = resolve(model, FIXED)
    trained = train_phase(
        RunConfig("gru", data.info.fingerprint, 3, "32", 1, recipe, hyper),
        model,
        data.train,
        validation_on(data.validation),
        phase="select",
        file=tmp_path / "select.pt",
        resume=False,
        on_progress=lambda progress: None,
        on_epoch=lambda record: None,
    )
    first = uninterrupted[1][0]
    assert first.params == {"lr": recipe.lr, "dropout_hidden": hyper["dropout_hidden"]}
    assert list(first.intermediate_values.values()) == [epoch["mrr@20"] for epoch in trained.history]
    told = json.loads(run(arguments(data, uninterrupted[0], "--json")).stdout)
    assert told["own_mrr@20"] == first.value < told["best"]["mrr@20"]


def test_hopeless_trials_are_pruned(uninterrupted: tuple[Path, list[FrozenTrial]]) -> None:
    trials = uninterrupted[1]
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned, "a learning rate of a millionth should not go on to the end"
    assert all(trial.number >= 4 and list(trial.intermediate_values) == [1, 2] for trial in pruned)
    assert all(
        list(trial.intermediate_values) == [1, 2, 3]
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.params["lr"] > 1e-4
    )


def test_nothing_but_finished_trials_is_kept(uninterrupted: tuple[Path, list[FrozenTrial]]) -> None:
    place = study_path(uninterrupted[0], "planted", "gru")
    assert {file.name for file in place.iterdir()} == {FILE, LOCK}


def first_pruned(trials: list[FrozenTrial]) -> int:
    return next(trial.number for trial in trials if trial.state == TrialState.PRUNED)


@pytest.mark.parametrize("moment", ["step", "epoch", "verdict"])
def test_interrupted_and_gone_on(
    data: Dataset, uninterrupted: tuple[Path, list[FrozenTrial]], tmp_path: Path, moment: str
) -> None:
    """In mid-epoch; at a checkpoint; and at the one after which the trial is to be pruned."""
    trial = first_pruned(uninterrupted[1]) if moment == "verdict" else 2
    kind = "step" if moment == "step" else "epoch"
    with pytest.raises(KeyboardInterrupt):
        search(data, tmp_path, watch=Watch((kind, trial, 2)))
    assert outcomes(kept(tmp_path)) == outcomes(uninterrupted[1][:trial])
    resumed = Watch()
    trials = search(data, tmp_path, watch=resumed)
    assert outcomes(trials) == outcomes(kept(tmp_path)) == outcomes(uninterrupted[1])
    if moment == "verdict":
        assert resumed.steps[0] == (trial + 1, 1), "its verdict was only to be read"
    else:
        assert resumed.steps[0] == (trial, 2 if moment == "step" else 3), "earlier epochs were trained again"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_struck_from_outside_and_gone_on(
    data: Dataset,
    uninterrupted: tuple[Path, list[FrozenTrial]],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(data, tmp_path, watch=Watch(("epoch", 1, 2)))
    (directory,) = study_path(tmp_path, "planted", "gru").glob("1-*")
    words = [sys.executable, "-m", "training", *arguments(data, tmp_path)]
    with no_further_checkpoint(directory / "select.pt"):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
        try:
            assert process.stdout is not None
            assert any(line.startswith("trial 1:") for line in process.stdout), "it goes on with trial 1"
            process.send_signal(number)
            output, _ = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == code
    assert ("the same command goes on" in output) == (number == signal.SIGINT)
    result = run(arguments(data, tmp_path, "--json"))
    assert result.exit_code == 0, result.output
    assert outcomes(kept(tmp_path)) == outcomes(uninterrupted[1])


def test_half_a_trial_is_taken_back(
    data: Dataset, uninterrupted: tuple[Path, list[FrozenTrial]], tmp_path: Path
) -> None:
    """As by a kill between the first byte of a trial that reaches the file and the last."""
    search(data, tmp_path, trials=2)
    place = study_path(tmp_path, "planted", "gru")
    whole = (place / FILE).read_bytes()
    killed = subprocess.run([sys.executable, "-c", HALF_WRITTEN, str(place / FILE)], check=False)
    assert killed.returncode == -9
    assert (place / FILE).read_bytes() != whole
    assert [trial.number for trial in search(data, tmp_path, trials=3)] == [0, 1, 2]
    assert outcomes(kept(tmp_path)) == outcomes(uninterrupted[1][:3])


def test_more_trials_go_on_from_those_there_are(
    data: Dataset, uninterrupted: tuple[Path, list[FrozenTrial]], tmp_path: Path
) -> None:
    search(data, tmp_path, trials=2)
    watch = Watch()
    assert outcomes(search(data, tmp_path, trials=3, watch=watch)) == outcomes(uninterrupted[1][:3])
    assert {trial for trial, _ in watch.steps} == {2}
    again = Watch()
    assert len(search(data, tmp_path, trials=1, watch=again)) == 3
    assert again.steps == []


def test_the_test_sessions_are_never_read(
    data: Dataset, uninterrupted: tuple[Path, list[FrozenTrial]], tmp_path: Path
) -> None:
    class Sealed:
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(f"test sessions: {name} was read")

    with pytest.raises(AssertionError, match="items was read"):
        _ = cast(Sessions, Sealed()).items
    sealed = dataclasses.replace(data, test=cast(Sessions, Sealed()))
    assert outcomes(search(sealed, tmp_path, trials=2)) == outcomes(uninterrupted[1][:2])


def test_parameters_that_cannot_be_trained_fail_and_do_not_count(data: Dataset, tmp_path: Path) -> None:
    fixed = [*FIXED[:2], "epochs=1"]
    searches = ["heads=2..4"]  # its ends can be trained, or nothing were searched
    trials = search(data, tmp_path, model="sasrec", fixed=fixed, searches=searches, trials=2)
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert failed
    assert len(trials) - len(failed) == 2
    assert all(trial.params == {"heads": 3} for trial in failed)
    assert failed[0].user_attrs["reason"].startswith("HyperError: --set heads=3: dim must be a multiple")
    hopeless = ["lr=1e37..1e38"]
    with pytest.raises(TuneError, match=r"2 trials failed, the last by DivergedError: training diverged"):
        search(data, tmp_path / "other", model="sasrec", fixed=fixed, searches=hopeless, trials=2)


@pytest.mark.parametrize(
    ("more", "difference"),
    [
        (["--seed", "4"], "seed was 3, is 4"),
        (["--threads", "2"], "threads was 1, is 2"),
        (["--set", "epochs=4"], "epochs was 3, is 4"),
        (["--search", "dropout_embedding=0.1|0.2"], "dropout_embedding was 0.4, is Categorical"),
    ],
)
def test_trials_under_other_settings_are_not_mixed(
    data: Dataset, uninterrupted: tuple[Path, list[FrozenTrial]], more: list[str], difference: str
) -> None:
    before = outcomes(kept(uninterrupted[0]))
    result = run(arguments(data, uninterrupted[0], *more))
    assert result.exit_code == 2
    assert difference in result.output
    assert "to begin anew, remove" in result.output
    assert outcomes(kept(uninterrupted[0])) == before


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        open_study(tmp_path, {}),
        pytest.raises(TuneError, match="another process"),
        open_study(tmp_path, {}),
    ):
        pass


@pytest.mark.parametrize(
    ("searches", "message"),
    [
        (["rate=1..2"], "--search rate: gru has no such hyper-parameter; it has: "),
        (["lr=0.1..0.01"], "--search lr=0.1..0.01: 0.1 is not below 0.01"),
        (["layers=1..two"], "--search layers=two: expected int"),
        (["layers=1|1.5"], "--search layers=1.5: expected int"),
        (["head=native|cosine"], "--search head=cosine: expected one of native, niser"),
        (["head=native..niser"], "--search head: a range is of numbers"),
        (["logq=false..true"], "--search logq: a range is of numbers"),
        (["layers=1|01"], "--search layers: a value is given twice"),
        (["patience=0..3"], "--search: patience must be at least 1"),
        (["lr=0.1"], "--search lr=0.1: expected NAME=LOW..HIGH or NAME=A|B"),
        (["lr"], "--search lr: expected NAME=LOW..HIGH or NAME=A|B"),
        (["lr=1e-3..1e-2", "lr=1|2"], "--search lr=1|2: lr is searched already"),
        (["dim=8..16"], "--search dim=8..16: --set has fixed dim"),
    ],
)
def test_a_wrong_search_is_one_clear_line(
    data: Dataset, tmp_path: Path, searches: list[str], message: str
) -> None:
    result = run(arguments(data, tmp_path, searches=searches))
    assert result.exit_code == 2
    assert message in result.output
    assert list(tmp_path.iterdir()) == [], "no study was begun"
