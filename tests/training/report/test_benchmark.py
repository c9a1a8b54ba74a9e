"""`benchmark` as it is typed: real trainings of small models, cut short and gone on with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from service.ranking.bundle import Bundle
from tests.training.interrupts import (
    being_written,
    heed_interrupts,
    no_further_checkpoint,
)
from tests.training.planted import planted_dataset, planted_sessions, write_dataset
from tests.training.shop_clicks import Silent
from tests.waiting import DEADLINE_SECONDS, alive
from training.__main__ import app
from training.data.dataset import Dataset
from training.fit import FitOptions, fit
from training.learn import checkpoint
from training.learn.checkpoint import Phase
from training.learn.hyper import resolve
from training.learn.registry import find_model
from training.learn.train import default_precision


@pytest.fixture
def place(tmp_path: Path) -> Path:
    planted_dataset(tmp_path / "data")
    return tmp_path


def arguments(place: Path, *more: str) -> list[str]:
    return [
        *("benchmark", "--data", str(place / "data"), "--artifacts", str(place / "artifacts")),
        *("--results", str(place / "results"), "--threads", "1", *more),
    ]


def run(place: Path, *more: str) -> Result:
    return CliRunner().invoke(app, arguments(place, *more))


def test_every_model_leaves_its_result_and_is_not_run_again(place: Path) -> None:
    result = run(place, "--models", "pop,vmis_knn", "--models", "stmp", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"done": ["pop", "vmis_knn", "stmp"]}
    written = {
        name: json.loads((place / f"results/planted/{name}.json").read_text())
        for name in ("pop", "vmis_knn", "stmp")
    }
    test = Dataset.load(place / "data").test
    for told in written.values():
        assert told["test_cases"] == len(test.items) - len(test)
        assert sum(group["cases"] for group in told["test_by_length"].values()) == told["test_cases"]
        assert told["trained_on"] == "training and validation sessions"
        assert told["command"].startswith("python -m training train --data")
        with np.load(place / f"results/planted/{told['model']}.npz") as arrays:
            assert arrays["cases"].tolist() == (np.diff(test.offsets) - 1).tolist()
            hits = (arrays["ranks"] > 0).mean()
        assert 100 * hits == pytest.approx(told["test"]["recall@20"])
    assert written["stmp"]["epochs"] > 0
    assert set(written["stmp"]["encode_microseconds"]) == {"1", "5", "20", "50"}
    assert written["vmis_knn"]["rank_microseconds"]["p50"] > 0
    assert written["pop"]["bundle"] is None
    bundle = Bundle.load(place / "artifacts/bundles" / written["vmis_knn"]["bundle"])
    assert bundle.manifest.metrics == written["vmis_knn"]["test"]

    again = run(place, "--models", "pop,vmis_knn,stmp", "--json")
    assert json.loads(again.stdout) == {"done before": ["pop", "vmis_knn", "stmp"]}
    assert written["stmp"] == json.loads((place / "results/planted/stmp.json").read_text())


class OneEpoch(Silent):
    """Interrupts a training when its first epoch is over."""

    def on_epoch(self, phase: Phase, record: dict[str, float]) -> None:
        raise KeyboardInterrupt


def begin(place: Path) -> Path:
    """Leave the GRU's checkpoint after one epoch, which is said to have taken 12,345.6 s."""
    recipe, hyper = resolve(find_model("gru"), [])
    options = FitOptions(recipe, hyper, 1, default_precision(), 1, place / "artifacts")
    with pytest.raises(KeyboardInterrupt):
        fit("gru", Dataset.load(place / "data"), options, OneEpoch(), "test")
    file = place / "artifacts/runs/planted/gru-seed1/select.pt"
    saved = checkpoint.load(file)
    saved["state"]["history"][0]["train_seconds"] = 12345.6
    checkpoint.save(file, saved)
    return file


def test_a_benchmark_that_is_cut_short_goes_on_from_the_checkpoint(place: Path) -> None:
    command = [sys.executable, "-m", "training", *arguments(place, "--models", "pop,gru")]
    with no_further_checkpoint(begin(place)) as pipe:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heed_interrupts)
        try:
            with being_written(pipe):
                process.send_signal(signal.SIGINT)
                assert process.wait(DEADLINE_SECONDS) == 130
        finally:
            process.kill()
            process.wait()
    assert (place / "results/planted/pop.json").exists()
    assert not (place / "results/planted/gru.json").exists(), "it was cut short"
    result = run(place, "--models", "pop,gru", "--json")
    assert json.loads(result.stdout) == {"done before": ["pop"], "done": ["gru"]}
    epochs = json.loads((place / "results/planted/gru.json").read_text())["history"]["select"]
    assert epochs[0]["train_seconds"] == 12345.6, "the first epoch is not trained again"
    assert len(epochs) > 1


def test_the_training_ends_with_it(place: Path) -> None:
    """Also when it is killed, which Python would leave without a word to the processes it has started."""
    command = [sys.executable, "-m", "training", *arguments(place, "--models", "gru,pop")]
    with no_further_checkpoint(place / "artifacts/runs/planted/gru-seed1/select.pt") as pipe:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            with being_written(pipe):
                [training] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                process.terminate()
                assert process.wait(DEADLINE_SECONDS) == 128 + signal.SIGTERM
                assert not alive(int(training))
        finally:
            process.kill()
            process.wait()
    assert not (place / "results").exists(), "nor does the next model begin"


def test_a_spent_budget_leaves_the_rest_for_later(place: Path) -> None:
    result = run(place, "--models", "pop,stan", "--budget-minutes", "0")
    assert result.exit_code == 0
    assert "out of budget: pop, stan" in result.output
    assert not (place / "results").exists()
    with no_further_checkpoint(place / "artifacts/runs/planted/gru-seed1/select.pt"):
        result = run(place, "--models", "gru,pop", "--budget-minutes", "0.02", "--json")
    assert json.loads(result.stdout) == {"out of budget": ["gru", "pop"]}


def test_results_of_other_data_are_not_taken_for_done(place: Path) -> None:
    assert run(place, "--models", "pop").exit_code == 0
    write_dataset(place / "other", planted_sessions(200, seed=5), planted_sessions(20, seed=6), 20)
    result = CliRunner().invoke(
        app,
        ["benchmark", "--data", str(place / "other"), "--models", "pop", "--results", str(place / "results")],
    )
    assert result.exit_code == 2
    assert "pop.json: is of other data" in result.output


def test_a_model_that_fails_is_named_and_the_next_one_runs(place: Path) -> None:
    (place / "artifacts").mkdir()
    (place / "artifacts/runs").write_text("where checkpoints should go")
    result = run(place, "--models", "stmp,pop", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"failed": ["stmp"], "done": ["pop"]}


def test_another_seed_has_results_of_its_own(place: Path) -> None:
    for state in ("done", "done before"):
        assert json.loads(run(place, "--models", "pop", "--seed", "2", "--json").stdout) == {state: ["pop"]}
    assert json.loads((place / "results/planted/pop.seed2.json").read_text())["seed"] == 2


def test_unknown_models_are_refused_at_once(place: Path) -> None:
    result = run(place, "--models", "pop,nisr")
    assert result.exit_code == 2
    assert "did you mean niser?" in result.output
