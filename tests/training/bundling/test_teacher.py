"""A student learns what its teacher answers; a teacher that cannot teach is refused."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from models.sessions import Sessions
from service.ranking.bundle import Bundle, read_manifest
from tests.service.bundles import Shop, edit_manifest
from tests.training.planted import N_ITEMS, planted_sessions, write_dataset
from training.__main__ import app
from training.bundling import teacher as module
from training.bundling.teacher import SCALES, SHARPER, Teacher, TeacherError, _scale
from training.data.dataset import Dataset
from training.learn.answers import MOST, Answers, row_of
from training.learn.batches import Examples

AHEAD = 3  # where the planted walk goes one item on, the teacher says three


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that goes three items on. So do the sessions held back, while those of training go one on."""
    path = tmp_path_factory.mktemp("place")
    walks = planted_sessions(260)
    held_back, test = (striding(planted_sessions(40, seed)) for seed in (1, 2))
    data = write_dataset(path / "data", joined(walks, held_back), test, n_validation=len(held_back))
    write_dataset(path / "other", joined(striding(walks), held_back), test, n_validation=len(held_back))
    made = train(path / "other", path, "--set", "epochs=12")
    bundle = path / "bundles" / made["bundle"]
    edit_manifest(bundle, data_fingerprint=data.info.fingerprint)
    bundle.rename(path / "teacher")
    return path


def joined(first: Sessions, then: Sessions) -> Sessions:
    offsets = np.concatenate([first.offsets, first.offsets[-1] + then.offsets[1:]])
    return Sessions(np.concatenate([first.items, then.items]), offsets, first.n_items)


def striding(sessions: Sessions) -> Sessions:
    """The same lengths, but walks of three items a step."""
    first = np.repeat(sessions.offsets[:-1], np.diff(sessions.offsets))
    place = np.arange(len(sessions.items)) - first
    walks = (sessions.items[first] - 1 + AHEAD * place) % N_ITEMS + 1
    return replace(sessions, items=walks.astype(np.int32))


def invoke(data: Path, artifacts: Path, *words: str) -> Result:
    own = ["--set", "dim=16", "--set", "lr=0.02", "--set", "batch_size=64", "--set", "dropout_embedding=0"]
    if "--model" not in words:
        words = ("--model", "gru", *own, *words)
    options = ["--data", str(data), "--artifacts", str(artifacts), "--threads", "1", "--no-repeats", "--json"]
    return CliRunner().invoke(app, ["train", *options, *words])


def train(data: Path, artifacts: Path, *words: str) -> dict[str, Any]:
    result = invoke(data, artifacts, *words)
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_a_student_answers_as_its_teacher_does_and_as_it_has_seen_by_the_weight(
    place: Path, tmp_path: Path
) -> None:
    """Of weight 1 the targets count for nothing, of 0 the teacher does: in both phases."""
    best, judged = {}, {}
    for weight in ("0", "0.5", "1"):
        words = ["--teacher", str(place / "teacher"), "--set", f"teacher_weight={weight}"]
        words += ["--set", "epochs=12", "--set", "patience=12"]
        judged[weight] = train(place / "data", tmp_path, *words)["validation"]["mrr@20"]
        made = train(place / "data", tmp_path, *words, "--refit-epochs", "12")
        bundle = Bundle.load(tmp_path / "bundles" / made["bundle"])
        assert bundle.manifest.hyperparameters["teacher"] == read_manifest(place / "teacher").version
        items = bundle.retriever.search(bundle.encoder.encode([[5, 6], [20, 21, 22]]), 2)[1]
        best[weight] = items.tolist()
    assert judged["0"] < 30 < judged["0.5"] < 90 < judged["1"]
    assert [row[0] for row in best["0"]] == [7, 23]
    assert [row[0] for row in best["1"]] == [6 + AHEAD, 22 + AHEAD]
    assert [sorted(row) for row in best["0.5"]] == [[7, 6 + AHEAD], [23, 22 + AHEAD]]


def taught(place: Path) -> tuple[Teacher, Dataset]:
    data = Dataset.load(place / "data")
    return Teacher.of(Bundle.load(place / "teacher"), data), data


def test_the_file_holds_what_the_bundle_answers_to_every_prefix(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 64)
    teacher, data = taught(place)
    file = tmp_path / "new" / "x.answers"
    teacher.answer(data.train_all, file, 1, resume=False, tell=lambda text: None)
    answers = Answers(file, N_ITEMS)
    assert len(answers) == data.train_all.n_targets
    told = answers.to(np.arange(len(answers)))
    bounds = list(zip(data.train_all.offsets[:-1], data.train_all.offsets[1:], strict=True))
    prefixes = [data.train_all.items[a:end].tolist() for a, b in bounds for end in range(a + 1, b)]
    scores, items = teacher.bundle.retriever.search(teacher.bundle.encoder.encode(prefixes), MOST)
    assert (
        told.items[told.places].numpy() == items
    ).mean() > 0.999  # but where two are as good as each other
    exponentials = np.exp(teacher.scale * (scores - scores[:, :1]).astype(np.float64))
    np.testing.assert_allclose(told.shares, exponentials / exponentials.sum(1, keepdims=True), atol=1e-3)
    np.testing.assert_allclose(told.shares.sum(1), 1, atol=1e-6)


def test_what_is_answered_is_not_asked_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill in the middle of a block it goes on behind the whole ones, to the same file."""
    monkeypatch.setattr(module, "BLOCK", 64)
    teacher, data = taught(place)
    said: list[str] = []

    def answered(file: Path, *, resume: bool = True) -> bytes:
        teacher.answer(data.train_all, file, 1, resume=resume, tell=said.append)
        return file.read_bytes()

    whole = answered(tmp_path / "whole", resume=False)
    row = row_of(N_ITEMS).itemsize
    cut = tmp_path / "cut"
    cut.write_bytes(whole[: 150 * row + 7])
    said.clear()
    assert answered(cut) == whole
    assert f"answers {data.train_all.n_targets - 128:,} prefixes" in said[0]
    said.clear()
    assert answered(cut) == whole
    assert not said
    assert answered(cut, resume=False) == whole
    assert f"answers {data.train_all.n_targets:,} prefixes" in said[0]
    cut.write_bytes(whole * 2)  # of other data
    assert answered(cut) == whole


def test_the_scale_is_twice_the_likeliest(place: Path) -> None:
    """Of a teacher that is always right sharp, of one that never is as flat as can be."""
    bundle = Bundle.load(place / "teacher")
    walks, strides = planted_sessions(200, 3), striding(planted_sessions(200, 4))
    both = joined(walks, strides)
    scale = _scale(bundle, both)
    assert SHARPER * SCALES[0] == _scale(bundle, walks) < scale < _scale(bundle, strides) / 4
    bounds = list(zip(both.offsets[:-1], both.offsets[1:], strict=True))
    prefixes = [both.items[a:end].tolist() for a, b in bounds for end in range(a + 1, b)]
    targets = [both.items[end] for a, b in bounds for end in range(a + 1, b)]
    scores, items = bundle.retriever.search(bundle.encoder.encode(prefixes), MOST)
    is_target = items == np.array(targets)[:, None]

    def likelihood(scale: float) -> float:
        exponentials = np.exp(scale * (scores - scores[:, :1]).astype(np.float64))
        return float(np.log((exponentials / exponentials.sum(1, keepdims=True))[is_target]).mean())

    likeliest = scale / SHARPER
    assert likelihood(likeliest) > max(likelihood(likeliest / 1.1), likelihood(likeliest * 1.1))


def test_a_killed_student_goes_on_to_the_same_weights(place: Path, tmp_path: Path) -> None:
    words = (
        "--teacher",
        str(place / "teacher"),
        "--set",
        "epochs=4",
        "--set",
        "loss=sampled-ce",
        "--set",
        "negatives=8",
    )
    whole = train(place / "data", tmp_path / "whole", *words)
    half = train(place / "data", tmp_path / "half", *words)
    (run,) = (tmp_path / "half/runs/planted").iterdir()
    (answers,) = run.glob("*.answers")
    answers.write_bytes(answers.read_bytes()[:100])
    resumed = train(place / "data", tmp_path / "half", *words, "--resume")
    for made in (half, resumed):
        theirs = Bundle.load(tmp_path / "half/bundles" / made["bundle"])
        ours = Bundle.load(tmp_path / "whole/bundles" / whole["bundle"])
        assert (theirs.retriever.vectors() == ours.retriever.vectors()).all()


def test_answers_that_do_not_fit_on_the_disk_are_one_line(place: Path, tmp_path: Path) -> None:
    words = ["--data", str(place / "data"), "--model", "gru", "--teacher", str(place / "teacher")]
    ended = subprocess.run(
        [sys.executable, "-m", "training", "train", *words, "--artifacts", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert (last.startswith(f"error: {tmp_path}"), last.endswith(".answers: File too large")) == (
        True,
        True,
    ), last


def test_another_teacher_is_another_run(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "teacher"
    shutil.copytree(place / "teacher", other)
    edit_manifest(other, version="gru-other")
    for words in ((), ("--teacher", str(place / "teacher")), ("--teacher", str(other))):
        train(place / "data", tmp_path, "--set", "epochs=1", *words)
    assert len([*(tmp_path / "runs/planted").iterdir()]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "auto"), "--teacher: teaches one model that is trained: name a --model"),
        (("--model", "stan"), "--teacher: teaches one model that is trained: stan is counted"),
        (("--model", "bert4rec"), "--teacher: bert4rec does not learn one next click at a time"),
        (("--model", "gru4rec"), "--teacher: gru4rec does not learn one next click at a time"),
        (("--model", "lightgcn"), "--teacher: lightgcn does not learn one next click at a time"),
        (
            ("--model", "gru", "--set", "loss=bpr", "--set", "negatives=5"),
            "not into bpr: --set loss=sampled-ce",
        ),
        (("--model", "gru", "--set", "horizon=3"), "answers are of the next click, not of the next 3"),
        (
            ("--model", "gru", "--set", "teacher_weight=1.5"),
            "teacher_weight must be at least 0 and at most 1",
        ),
    ],
)
def test_what_cannot_be_taught(place: Path, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    refused = invoke(place / "data", tmp_path, "--teacher", str(place / "teacher"), *words)
    assert (refused.exit_code, [*tmp_path.iterdir()]) == (2, [])
    assert message in refused.output


def refitted(bundle: Path) -> None:
    settings = read_manifest(bundle).hyperparameters
    edit_manifest(bundle, hyperparameters={**settings, "refit": True})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (refitted, "may have learned from the validation sessions"),
        (
            lambda bundle: edit_manifest(bundle, hyperparameters={}),
            "may have learned from the validation sessions",
        ),
        (
            lambda bundle: edit_manifest(bundle, data_fingerprint="other"),
            "may have learned from the validation",
        ),
    ],
)
def test_a_teacher_that_has_seen_what_judges_its_student(
    place: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(place / "teacher", tmp_path / "teacher")
    change(tmp_path / "teacher")
    refused = invoke(place / "data", tmp_path / "made", "--teacher", str(tmp_path / "teacher"))
    assert (refused.exit_code, message in refused.output) == (2, True), refused.output


def test_a_teacher_of_other_items_and_one_without_vectors(place: Path, tmp_path: Path) -> None:
    Shop.make().write(tmp_path)
    counted = train(place / "data", tmp_path, "--model", "vmis_knn")
    for bundle, message in (
        (tmp_path / "bundles/v1", "has another item table than"),
        (tmp_path / "bundles" / counted["bundle"], "ranks by neighbours: its scores are no cosines"),
        (tmp_path / "nothing", "nothing"),
    ):
        refused = invoke(place / "data", tmp_path / "made", "--teacher", str(bundle))
        assert (refused.exit_code, message in refused.output) == (2, True), refused.output


def test_a_teacher_that_finds_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, data = taught(place)

    def of_no_use(bundle: Bundle, examples: Examples, k: int) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((len(examples), k), np.float32), np.full((len(examples), k), 0, np.int64)

    monkeypatch.setattr(module, "_answers", of_no_use)
    with pytest.raises(TeacherError, match="finds none of the newest"):
        Teacher.of(teacher.bundle, data)
