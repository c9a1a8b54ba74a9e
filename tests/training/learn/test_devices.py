"""Devices by name, several processes that train as one, and batches that are made ahead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from models.base import Batch, Recipe
from models.gru4rec import GRU4Rec
from tests.training.learn import together
from tests.training.planted import planted_dataset
from training.__main__ import app
from training.learn import checkpoint
from training.learn.devices import DeviceError, made_ahead, open_fabric, part_of, resolve_device

HERE = {**os.environ, "OMP_NUM_THREADS": "1"}
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Started by Fabric, over gloo; resumed in the middle of an epoch, too, to the very same weights."""
    script = [sys.executable, "-m", "tests.training.learn.together", "2", str(tmp_path)]
    subprocess.run(script, check=True, env=HERE)
    of_two = checkpoint.load(tmp_path / "weights.pt")
    alone = open_fabric()
    for name, run in together.RUNS.items():
        for part, weight in together.train(
            alone, run, tmp_path / f"{name}-alone.pt", taught="taught" in name
        ).items():
            torch.testing.assert_close(of_two[name][part], weight, atol=1e-5, rtol=0, msg=f"{name}: {part}")
    for name in ("dropout", "lanes"):
        for part, weight in of_two[f"{name}, whole"].items():
            assert torch.equal(weight, of_two[f"{name}, resumed"][part]), (name, part)


def test_torchrun_trains_one_model(tmp_path: Path) -> None:
    planted_dataset(tmp_path / "data")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["--data", str(tmp_path / "data"), "--model", "stmp", "--set", "dim=8", "--set", "epochs=1"]
    words += ["--device", "cpu", "--threads", "1", "--artifacts", str(tmp_path), "--json"]
    train = subprocess.run(
        [*launch, "-m", "training", "train", *words], check=True, env=HERE, stdout=subprocess.PIPE
    )
    result = json.loads(train.stdout)  # of the first process alone
    assert result["processes"] == 2
    assert [bundle.name for bundle in (tmp_path / "bundles").iterdir()] == [result["bundle"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--bundle", "b", "--data", "d"], "under torchrun several processes can `train`"),
        (["train", "--data", "d", "--model", "stan"], "stan is counted, by one process"),
        (["train", "--data", "d", "--model", "stmp", "--devices", "3"], "torchrun has started 2 here"),
    ],
)
def test_what_several_processes_would_do_twice_is_refused(words: list[str], message: str) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}
    refused = CliRunner().invoke(app, words, env=torchrun)
    assert refused.exit_code == 2
    assert message in refused.output


def test_a_device_is_what_it_is_called() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("wrong", ["gpu", "cpu:0", "cuda:", "cuda:x", ""])
def test_a_device_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda or cuda:N"):
        resolve_device(wrong)


@no_gpu
@pytest.mark.parametrize("wanted", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_refused(wanted: str) -> None:
    with pytest.raises(DeviceError, match="torch sees no GPU here"):
        open_fabric(wanted)


def test_a_checkpoint_of_another_device_or_of_more_processes_is_refused(tmp_path: Path) -> None:
    file, alone = tmp_path / "run.pt", open_fabric()
    together.train(alone, together.RUNS["stamp"], file)
    saved = checkpoint.load(file)
    for key, theirs in (("device", "cuda"), ("processes", 2)):
        checkpoint.save(file, {**saved, "identity": {**saved["identity"], key: theirs}})
        with pytest.raises(checkpoint.CheckpointError, match=rf"{key} was {theirs!r}, is"):
            together.train(alone, together.RUNS["stamp"], file, resume=True)


def test_a_checkpoint_from_before_there_were_devices_is_gone_on_with(tmp_path: Path) -> None:
    file, alone = tmp_path / "run.pt", open_fabric()
    weights = together.train(alone, together.RUNS["lanes"], tmp_path / "whole.pt", keep=file)
    saved = checkpoint.load(file)
    older = {key: value for key, value in saved["identity"].items() if key not in ("device", "processes")}
    kept = {key: value for key, value in saved.items() if key not in ("cuda_rng", "others")}
    checkpoint.save(file, {**kept, "identity": older})
    for part, weight in together.train(alone, together.RUNS["lanes"], file, resume=True).items():
        assert torch.equal(weight, weights[part]), part


def test_a_part_without_targets_weighs_nothing() -> None:
    model = GRU4Rec(9, dim=4)
    batch = Batch(torch.tensor([[1], [0], [2]]), torch.tensor([2, 0, 3]), torch.tensor([True, False, True]))
    parts = [part_of(model, batch, rank, 2) for rank in range(2)]
    assert parts[0][0].targets.tolist() == [2, 3]
    assert parts[0][1] == pytest.approx(2 * 2 / 3)  # two of three lanes, whether they run or not
    assert parts[1][0] is batch
    assert parts[1][1] == 0.0


@pytest.mark.parametrize("targets", [[2, 0, 3, 5, 1], [2, 0, 3, 0, 0], [0, 4, 0, 0, 0]])
def test_the_lanes_of_several_processes_weigh_what_one_processs_do(targets: list[int]) -> None:
    """Their weighted losses' mean is the loss of all lanes together: the sum of those that run, by five."""
    torch.manual_seed(0)
    model = GRU4Rec(9, dim=4, dropout_hidden=0.0)
    model.recipe = Recipe()
    wanted = torch.tensor(targets)
    batch = Batch(torch.where(wanted > 0, 7, 0)[:, None], wanted, wanted > 0)
    whole, _ = model.step(batch, None)
    assert whole.isfinite()
    parts = [part_of(model, batch, rank, 2) for rank in range(2)]
    losses = [model.step(part, None)[0] * weight for part, weight in parts]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)


def test_batches_that_are_made_ahead_come_in_order() -> None:
    """As for a GPU, whether there is one or not."""
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step**2

    ahead = made_ahead(make, range(9), torch.device("cuda"))
    assert list(ahead) == [step**2 for step in range(9)]
    assert made == list(range(9))


def test_what_fails_while_it_is_made_ahead_is_told() -> None:
    def make(step: int) -> float:
        return 1 / (2 - step)

    ahead = made_ahead(make, range(9), torch.device("cuda"))
    assert [next(ahead), next(ahead)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(ahead)


def test_the_places_of_targets() -> None:
    targets = torch.tensor([[3, 0, 2], [0, 0, 1]])
    assert Batch(targets, targets).places.tolist() == [0, 2, 5]
