"""The command line from a click log to a live bundle, as a user types it."""

from __future__ import annotations

import importlib
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from service.live.deployment import publish, read_deployment
from service.ranking.bundle import Bundle
from service.ranking.repeats import RepeatTable
from tests.training.planted import planted_dataset
from training.__main__ import app
from training.commands.endings import ANOTHER_TIME, REFUSED, WRONG_INPUT
from training.data.dataset import Dataset
from training.learn import hyper
from training.learn.checkpoint import alone_in

QUICK = ["--set", "dim=8", "--set", "lr=0.02", "--set", "batch_size=64", "--threads", "1"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set in data/, and in artifacts/ a bundle trained on it."""
    path = tmp_path_factory.mktemp("place")
    planted_dataset(path / "data")
    result = run(
        *("train", "--data", str(path / "data"), "--model", "gru", *QUICK, "--set", "epochs=6"),
        *("--artifacts", str(path / "artifacts"), "--results", str(path / "results"), "--refit", "--json"),
    )
    assert result.exit_code == 0, result.output
    (path / "trained.json").write_text(result.stdout)
    return path


def trained_bundle(place: Path) -> Path:
    version: str = json.loads((place / "trained.json").read_text())["bundle"]
    return place / "artifacts/bundles" / version


def test_train_says_what_it_samples_and_what_steps_cost(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a catalogue that is large: here, of more than ten items."""
    monkeypatch.setattr(hyper, "LARGE_CATALOGUE", 10)
    words = ("train", "--data", str(place / "data"), "--model", "gru", *QUICK, "--set", "epochs=1")
    result = run(*words, "--set", "negatives=9", "--artifacts", str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    told = " ".join(result.stderr.split())
    assert "a full softmax over 30 items would cost" in told
    steps = r"(\d+) ms a step, an epoch of (\d+) steps about (\d+) s \(measured on (\d+) steps\)"
    assert re.search(
        rf"sampled-ce against 9 negatives and the step's other targets of 30 items, .*: {steps}", told
    )
    assert json.loads(result.stdout)["recipe"]["loss"] == "sampled-ce"


@pytest.mark.parametrize("error", [*WRONG_INPUT, *ANOTHER_TIME, *REFUSED])
def test_every_error_that_is_told_in_a_line_is_one(error: str) -> None:
    module, _, name = error.rpartition(".")
    defined = getattr(importlib.import_module(module), name)
    assert issubclass(defined, Exception)
    assert defined.__module__ == module, "elsewhere it may be loaded, and this not"


def test_train_leaves_a_bundle_with_its_test_metrics(place: Path) -> None:
    trained = json.loads((place / "trained.json").read_text())
    bundle = Bundle.load(trained_bundle(place))
    assert bundle.manifest.metrics == trained["test"]
    assert trained["test"]["recall@20"] > 95, "the pattern was not learned"
    assert trained["trained_on"] == "training and validation sessions"
    assert trained["epochs"] == len(trained["history"]["refit"])


def test_results_tell_how_they_came_about(place: Path) -> None:
    written = json.loads((place / "results/planted/gru.json").read_text())
    assert written == json.loads((place / "trained.json").read_text())
    assert {"command", "commit", "seed", "hyperparameters", "epochs", "wall_seconds", "test"} <= set(written)


@pytest.mark.parametrize("model", ["gru", "vmis_knn", "pop"])
def test_train_tells_of_validation_and_reads_test_only_when_asked(
    place: Path, tmp_path: Path, model: str
) -> None:
    """The test sessions are of items that there are not: whoever reads them fails."""
    shutil.copytree(place / "data", tmp_path / "data")
    test = Dataset.load(tmp_path / "data").test
    np.save(tmp_path / "data/test.items.npy", np.full_like(test.items, 1_000_000))
    settings = [*QUICK, "--set", "epochs=6"] if model == "gru" else []
    common = ("train", "--data", str(tmp_path / "data"), "--model", model, *settings, "--refit")
    told = json.loads(run(*common, "--artifacts", str(tmp_path / "a"), "--json").stdout)
    assert "test" not in told
    assert set(told["validation"]) == {"recall@20", "mrr@20"}
    if model == "gru":
        best = max(told["history"]["select"], key=lambda record: record["mrr@20"])
        assert told["validation"] == {name: best[name] for name in ("recall@20", "mrr@20")}
        assert told["validation"]["recall@20"] > 95
    if told["bundle"]:
        metrics = Bundle.load(tmp_path / "a/bundles" / told["bundle"]).manifest.metrics
        assert metrics == {f"validation {name}": value for name, value in told["validation"].items()}
    shown = run(*common, "--artifacts", str(tmp_path / "b")).output
    assert f"validation: recall@20 {told['validation']['recall@20']:.2f}" in shown
    assert "test:" not in shown
    asked = run(*common, "--artifacts", str(tmp_path / "c"), "--test")
    assert isinstance(asked.exception, IndexError)
    shutil.copytree(place / "data", tmp_path / "data", dirs_exist_ok=True)
    both = run(*common, "--artifacts", str(tmp_path / "d"), "--test").output
    assert "test: recall@5" in both


def split_log(place: Path, train: Sequence[str], test: Sequence[str]) -> Path:
    """A data set of a log that comes split, one session a line."""
    for name, sessions in (("train", train), ("test", test)):
        (place / f"{name}.txt").write_text("".join(f"{session}\n" for session in sessions))
    prepared = run(
        *("prepare", "--format", "sessions", "--input", str(place / "train.txt")),
        *("--test", str(place / "test.txt"), "--output", str(place / "data")),
    )
    assert prepared.exit_code == 0, prepared.output
    return place / "data"


WALKS = ["a b c d", "b c d a", "c d a b", "d a b c"] * 10


@pytest.mark.parametrize("model", ["gru", "gru4rec", "vmis_knn", "item_knn"])
def test_sessions_of_one_click_are_no_harm(tmp_path: Path, model: str) -> None:
    """Among the first, the newest, in validation and in test: they are left out where they say nothing."""
    data = split_log(tmp_path, ["a", *WALKS, "b", "c"], ["d", "a b c", "b"])
    settings = [*QUICK, "--set", "epochs=2"] if model.startswith("gru") else []
    result = run(
        *("train", "--data", str(data), "--model", model, *settings, "--refit"),
        *("--artifacts", str(tmp_path / "artifacts"), "--test", "--json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["test_cases"] == 2


@pytest.mark.parametrize("held_back", ["none", "of one click"])
@pytest.mark.parametrize("refit", [[], ["--refit"]])
def test_without_validation_every_epoch_is_trained_and_it_says_so(
    tmp_path: Path, held_back: str, refit: list[str]
) -> None:
    data = split_log(tmp_path, [*WALKS, *["a"] * 4], ["a b c"])
    if held_back == "none":
        info = json.loads((data / "dataset.json").read_text())
        (data / "dataset.json").write_text(json.dumps(info | {"n_validation": 0}))
    common = ("train", "--data", str(data), "--model", "gru", *QUICK, "--set", "epochs=5", *refit)
    shown = run(*common, "--artifacts", str(tmp_path / "a"))
    assert shown.exit_code == 0, shown.output
    said = " ".join(shown.output.split())  # lines end where the terminal does
    assert "nothing is held back for validation" in said
    assert "training goes on for all 5" in said
    assert "no validation figures" in said
    assert "nan" not in said.split()
    told = json.loads(run(*common, "--artifacts", str(tmp_path / "b"), "--json").stdout)
    assert (told["epochs"], told["validation"]) == (5, None)
    assert {phase: len(epochs) for phase, epochs in told["history"].items()} == {
        "refit" if refit else "select": 5
    }
    refused = run(
        "evaluate", "--data", str(data), "--split", "validation", "--bundle", str(bundle_in(tmp_path / "b"))
    )
    assert (refused.exit_code, "no session to measure on" in refused.output) == (2, True)
    counted = ("train", "--data", str(data), "--model", "pop", "--artifacts", str(tmp_path / "c"))
    assert "no validation figures" in " ".join(run(*counted).output.split())


def bundle_in(artifacts: Path) -> Path:
    (bundle,) = (artifacts / "bundles").iterdir()
    return bundle


def test_train_as_published(place: Path, tmp_path: Path) -> None:
    """Nothing of our recipe is left in what is trained, but for what is set on top."""
    train = ("train", "--data", str(place / "data"), "--threads", "1", "--artifacts", str(tmp_path), "--json")
    quick = ("--set", "dim=8", "--set", "epochs=1", "--set", "batch_size=16")
    for words, loss, momentum in ((("--paper",), "bpr-max", 0.1), (("--paper-of", "2016"), "top1", 0.0)):
        result = run(*train, "--model", "gru4rec", *words, *quick)
        assert result.exit_code == 0, result.output
        trained = json.loads(result.stdout)
        recipe, hyper = trained["recipe"], trained["hyperparameters"]
        assert (recipe["loss"], recipe["optimizer"], recipe["momentum"]) == (loss, "adagrad", momentum)
        assert (recipe["lr_gamma"], recipe["batch_size"], recipe["epochs"]) == (1.0, 16, 1)
        assert (hyper["batching"], hyper["dropout_embedding"]) == ("session-parallel", 0)
    counted = run(*train, "--model", "stan", "--paper")
    assert json.loads(counted.stdout)["hyperparameters"]["decay_age"] == 0.138


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gru4rec", "--paper-of", "2015"], "of gru4rec there is: paper, 2016, 2016-bpr, 2018, "),
        (["gru", "--paper"], "--paper: of gru there is: nothing"),
        (["niser", "--paper-of", "2018"], "of niser there is: paper"),
        (["pop", "--paper"], "of pop there is: nothing"),
    ],
)
def test_what_was_not_published_is_refused(place: Path, words: list[str], message: str) -> None:
    result = run("train", "--data", str(place / "data"), "--model", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("train", "test", "more", "message"),
    [
        (["a", "b", "c", "a"] * 5, ["a b"], [], "no training session has a second click"),
        (WALKS, ["a", "b"], ["--test"], "no test session has a second click"),
    ],
)
@pytest.mark.parametrize("model", ["gru", "vmis_knn"])
def test_what_cannot_end_well_is_not_begun(
    tmp_path: Path, model: str, train: list[str], test: list[str], more: list[str], message: str
) -> None:
    data = split_log(tmp_path, train, test)
    artifacts = tmp_path / "artifacts"
    result = run(
        *("train", "--data", str(data), "--model", model, "--artifacts", str(artifacts), "--json", *more)
    )
    assert (result.exit_code, message in result.output) == (2, True), result.output
    assert not artifacts.exists()


def small_files() -> None:
    """For `preexec_fn`: a disk that takes no more than the beginning of a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


@pytest.mark.parametrize("model", ["gru", "vmis_knn"])
def test_what_does_not_fit_on_the_disk_is_one_line(place: Path, tmp_path: Path, model: str) -> None:
    """Training fails at its first checkpoint, counting at its bundle; neither leaves a part of it."""
    command = ("train", "--data", str(place / "data"), "--model", model, "--artifacts", str(tmp_path / "a"))
    ended = subprocess.run(
        [sys.executable, "-m", "training", *command, "--json"],
        capture_output=True,
        text=True,
        preexec_fn=small_files,
        check=False,
    )
    lines = ended.stderr.splitlines()
    assert ended.returncode == 1, ended.stderr
    assert lines[-1].startswith(f"error: {tmp_path / 'a'}"), ended.stderr
    assert "Traceback" not in ended.stderr
    left = sorted(file.name for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert left == ([".train.lock", "progress.json"] if model == "gru" else [])


@pytest.mark.parametrize("option", ["--artifacts", "--results"])
def test_a_place_that_cannot_be_written_in_is_told_before_training(
    place: Path, tmp_path: Path, option: str
) -> None:
    (tmp_path / "taken").touch()
    options = {"--artifacts": str(tmp_path / "a"), "--results": str(tmp_path / "r")}
    options[option] = str(tmp_path / "taken/within")
    words = [word for pair in options.items() for word in pair]
    result = run("train", "--data", str(place / "data"), "--model", "gru", *words, "--json")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == f"error: {tmp_path / 'taken'}: Not a directory"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"], "nothing was begun"


def test_training_that_diverges_is_not_published(place: Path, tmp_path: Path) -> None:
    result = run(
        *("train", "--data", str(place / "data"), "--model", "gru", "--set", "lr=1e38"),
        *("--artifacts", str(tmp_path), "--threads", "1", "--publish"),
    )
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.output.splitlines() if "error" in line]
    assert re.search(r"error: training diverged in epoch 1, (by )?batch 1 of 1 ", line)
    assert read_deployment(tmp_path).champion is None
    assert not (tmp_path / "bundles").exists()


def test_evaluate_gives_the_metrics_of_the_manifest(place: Path) -> None:
    bundle = trained_bundle(place)
    result = run("evaluate", "--bundle", str(bundle), "--data", str(place / "data"), "--json")
    measured = json.loads(result.stdout)
    assert measured["metrics"] == Bundle.load(bundle).manifest.metrics
    test = Dataset.load(place / "data").test
    assert measured["cases"] == len(test.items) - len(test)
    assert set(measured["metrics"]) == set(measured["metrics_without_seen_items"])


def test_evaluate_renews_what_was_measured(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "planted/gru.json"
    shutil.copytree(place / "results/planted", tmp_path / "planted")
    written = json.loads(file.read_text())
    (tmp_path / "planted/gru.npz").unlink()
    file.write_text(json.dumps({k: v for k, v in written.items() if not k.startswith(("test", "encode"))}))
    arguments = ["evaluate", "--data", str(place / "data"), "--results", str(tmp_path), "--bundle"]
    assert run(*arguments, str(trained_bundle(place))).exit_code == 0
    renewed = json.loads(file.read_text())
    assert set(renewed) == set(written)
    clocks = {"encode_microseconds", "rank_microseconds"}
    assert {k: v for k, v in renewed.items() if k not in clocks} == {
        k: v for k, v in written.items() if k not in clocks
    }
    with (
        np.load(tmp_path / "planted/gru.npz") as renewed_ranks,
        np.load(place / "results/planted/gru.npz") as ranks,
    ):
        np.testing.assert_array_equal(renewed_ranks["ranks"], ranks["ranks"])

    file.write_text(json.dumps({**written, "bundle": "gru-other"}))
    refused = run(*arguments, str(trained_bundle(place)))
    assert refused.exit_code == 2
    assert "gru.json is of gru-other" in refused.output
    file.write_text("{")
    broken = run(*arguments, str(trained_bundle(place)))
    assert (broken.exit_code, "gru.json: cannot be read" in broken.output) == (2, True)
    file.unlink()
    missing = run(*arguments, str(trained_bundle(place)))
    assert "none at all" in missing.output
    on_validation = run(*arguments, str(trained_bundle(place)), "--split", "validation")
    assert (on_validation.exit_code, "--results: holds" in on_validation.output) == (2, True)


def test_a_variant_has_a_result_of_its_own(place: Path, tmp_path: Path) -> None:
    file = shutil.copytree(place / "results/planted", tmp_path / "planted") / "gru.json"
    before = file.read_text()
    arguments = ["train", "--data", str(place / "data"), "--model", "gru", *QUICK, "--set", "epochs=1"]
    arguments += ["--variant", "one-epoch", "--artifacts", str(tmp_path / "artifacts"), "--json"]
    alone = run(*arguments)
    assert (alone.exit_code, "--variant: names a line of --results" in alone.output) == (2, True)
    seed = run(*arguments, "--results", str(tmp_path), "--variant", "seed2")
    assert (seed.exit_code, "--variant seed2: a name is letters" in seed.output) == (2, True)

    trained = run(*arguments, "--results", str(tmp_path))
    assert trained.exit_code == 0, trained.output
    own = tmp_path / "planted/gru.one-epoch.json"
    written = json.loads(own.read_text())
    assert (written["variant"], written["epochs"]) == ("one-epoch", 1)
    own.write_text(json.dumps({**written, "test": {}}))
    bundle = str(tmp_path / "artifacts/bundles" / written["bundle"])
    renewed = run("evaluate", "--data", str(place / "data"), "--results", str(tmp_path), "--bundle", bundle)
    assert renewed.exit_code == 0, renewed.output
    assert json.loads(own.read_text())["test"] == written["test"]
    assert file.read_text() == before, "the model's own result stands beside it"


def test_a_counted_baseline_goes_live(place: Path, tmp_path: Path) -> None:
    common = ("train", "--data", str(place / "data"), "--artifacts", str(tmp_path), "--model")
    result = run(*common, "vmis_knn", "--set", "k=30", "--refit", "--publish", "--test", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    live = Bundle.load(tmp_path / "bundles" / (read_deployment(tmp_path).champion or ""))
    assert (live.manifest.kind, live.manifest.version) == ("neighbours", told["bundle"])
    assert live.manifest.metrics == told["test"]
    assert live.manifest.hyperparameters == {
        "seed": 1,
        "m": 500,
        "k": 30,
        "max_length": 50,
        "refit": True,
    }
    assert live.ranker.rank([[3, 4]], [2], [(3, 4)])[0][1].tolist() in ([5, 6], [5, 2], [2, 5])
    assert (told["family"], told["epochs"], told["parameters"]) == ("counted", 0, 0)

    refused = run(*common, "stan", "--publish")
    assert refused.exit_code == 2
    assert "stan cannot be served" in refused.output
    in_epochs = run(*common, "stan", "--refit-epochs", "3")
    assert (in_epochs.exit_code, "stan is counted" in in_epochs.output) == (2, True)
    assert "decay_age, decay_distance" in run(*common, "stan", "--set", "lr=1").output
    exported = run(
        "popularity", "--bundle", str(live.path), "--data", str(place / "data"), "--results", str(tmp_path)
    )
    assert (exported.exit_code, "it has no vectors" in exported.output) == (2, True)


def test_repeats_are_fitted_on_sessions_that_were_held_back(place: Path, tmp_path: Path) -> None:
    """In the planted walks nothing comes again, and a mean of item vectors does not know it."""
    common = ("train", "--data", str(place / "data"), "--model", "bprmf", *QUICK, "--set", "epochs=1")

    def repeat(*arguments: str) -> RepeatTable | None:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        name = Path(json.loads(result.stdout)["bundle"]).name
        return Bundle.load(next(tmp_path.glob(f"*/bundles/{name}"))).manifest.repeat

    selected = repeat(*common, "--artifacts", str(tmp_path / "a"))
    refitted = repeat(*common, "--artifacts", str(tmp_path / "b"), "--refit")
    assert selected is not None
    assert refitted is not None
    assert selected.by_distance[0] < 0
    assert selected.measured["mrr@20"] > selected.measured["mrr@20 without"]
    assert refitted.measured == selected.measured, "it is the first model's, in the second one's units"
    assert repeat(*common, "--artifacts", str(tmp_path / "c"), "--no-repeats") is None
    assert repeat(*common, "--artifacts", str(tmp_path / "d"), "--refit-epochs", "1") is None
    (checkpoint,) = tmp_path.glob("b/runs/**/refit.pt")
    export = ("export", "--data", str(place / "data"), "--artifacts", str(tmp_path / "e"), "--checkpoint")
    assert repeat(*export, str(checkpoint)) == refitted
    assert repeat(*export, str(checkpoint), "--no-repeats") is None
    checkpoint.with_name("select.pt").unlink()
    assert repeat(*export, str(checkpoint)) is None


def test_resume_exports_again_without_training(place: Path) -> None:
    before = json.loads((place / "trained.json").read_text())
    result = run(
        *("train", "--data", str(place / "data"), "--model", "gru", *QUICK, "--set", "epochs=6"),
        *("--artifacts", str(place / "artifacts"), "--refit", "--resume", "--test", "--json"),
    )
    after = json.loads(result.stdout)
    assert after["history"] == before["history"], "clocks included: nothing was trained again"
    assert after["test"] == before["test"]


def test_each_setting_has_checkpoints_of_its_own(place: Path, tmp_path: Path) -> None:
    """A run goes on from its own, whatever was tried meanwhile."""

    def train(*more: str) -> Result:
        command = ("train", "--data", str(place / "data"), "--model", "gru", *QUICK, "--json")
        return run(*command, "--artifacts", str(tmp_path), *more)

    first = json.loads(train("--set", "epochs=2").stdout)
    assert train("--set", "epochs=1").exit_code == 0
    again = json.loads(train("--set", "epochs=2", "--resume").stdout)
    assert again["history"] == first["history"], "clocks included: nothing was trained again"
    directories = sorted((tmp_path / "runs/planted").iterdir())
    assert len(directories) == 2
    for directory in directories:
        with alone_in(directory):
            busy = train("--set", "epochs=2", "--resume")
            other = train("--set", "epochs=1", "--resume")
        assert sorted([busy.exit_code, other.exit_code]) == [0, 1]
        refused = busy if busy.exit_code else other
        assert f"error: another training is under way: it holds {directory}" in refused.output


def test_export_publish_rollback(place: Path, tmp_path: Path) -> None:
    (checkpoint,) = (place / "artifacts/runs/planted").glob("gru-seed1-*/refit.pt")
    exported = run(
        *("export", "--checkpoint", str(checkpoint), "--data", str(place / "data")),
        *("--artifacts", str(tmp_path), "--json"),
    )
    assert exported.exit_code == 0, exported.output
    document = json.loads(exported.stdout)
    assert document["test"] == json.loads((place / "trained.json").read_text())["test"]
    bundle = Path(document["bundle"])
    second = bundle.rename(bundle.with_name("gru-second"))
    assert run("publish", "--bundle", str(second), "--artifacts", str(tmp_path)).exit_code == 2, (
        "not its name"
    )
    second.rename(bundle)
    assert run("publish", "--bundle", str(bundle), "--artifacts", str(tmp_path)).exit_code == 0
    assert read_deployment(tmp_path).champion == bundle.name
    refused = run("rollback", "--artifacts", str(tmp_path))
    assert refused.exit_code == 2
    assert "no previous version" in refused.output


def test_rollback_verifies_before_it_changes_anything(place: Path, tmp_path: Path) -> None:
    trained = trained_bundle(place)
    for version in ("v-lost", trained.name):
        (tmp_path / "bundles" / version).mkdir(parents=True)
        publish(tmp_path, version)
        (tmp_path / "bundles" / version).rmdir()
    refused = run("rollback", "--artifacts", str(tmp_path))
    assert refused.exit_code == 2
    assert "v-lost/manifest.json: missing" in refused.output
    assert read_deployment(tmp_path).champion == trained.name
    shutil.copytree(trained, tmp_path / "bundles" / trained.name)
    (tmp_path / "bundles/newer").mkdir()
    publish(tmp_path, "newer")
    assert run("rollback", "--artifacts", str(tmp_path)).exit_code == 0
    assert read_deployment(tmp_path).champion == trained.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "nowhere", "--model", "gru"], "nowhere/dataset.json: missing"),
        (["train", "--data", "nowhere", "--model", "gruu"], "did you mean gru"),
        (["train", "--data", "nowhere", "--model", "niser", "--set", "rate=1"], "no such hyper-parameter"),
        (["evaluate", "--bundle", "nowhere", "--data", "nowhere"], "nowhere"),
        (["export", "--checkpoint", "no.pt", "--data", "nowhere"], "nowhere/dataset.json: missing"),
        (["publish", "--bundle", "never-made"], "never-made/manifest.json: missing"),
    ],
)
def test_wrong_input_is_one_clear_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_attributes_that_come_to_nothing_are_refused_before_a_bundle_is_made(
    place: Path, tmp_path: Path
) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,brand\n" + "".join(f"item-{i},b\n" for i in range(1, 31)))
    train = ("train", "--data", str(place / "data"), "--artifacts", str(tmp_path), "--items", str(items))
    counted = run(*train, "--model", "vmis_knn")
    assert (counted.exit_code, "vmis_knn is counted, it has no item vectors" in counted.stderr) == (2, True)
    few = run(*train, "--model", "gru", *QUICK, "--set", "epochs=1")
    assert (few.exit_code, "of 30 of the 30 items" in few.stderr) == (2, True)
    items.write_text("item_id,price\na,cheap\n")
    wrong = run(*train, "--model", "gru")
    assert (wrong.exit_code, "items.csv:2: " in wrong.stderr) == (2, True)
    assert not [*tmp_path.glob("bundles/*")]
