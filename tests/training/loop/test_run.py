"""Runs from clicks to a published bundle: what is published, what is refused, and what a kill costs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from service.live.deployment import bundle_path, publish, read_deployment, rollback
from service.live.follower import load_bundle
from service.ranking.bundle import Bundle, read_manifest
from service.ranking.served import Query, ServedBundle
from tests.service.bundles import Shop
from tests.training.shop_clicks import DAYS, GRU, Files, Silent, config, settings, shuffled, write_shop
from training.bundling.teacher import TeacherError
from training.data.dataset import Dataset
from training.learn import checkpoint
from training.learn.checkpoint import load
from training.learn.warm_start import warm_start
from training.loop.gate import check_checkpoint
from training.loop.retrain import RetrainConfig
from training.loop.run import run
from training.loop.run_record import RunError, RunRecord, held_out_from, read_record, run_paths
from training.loop.run_steps import STEPS
from training.measure.progress import read_progress

# Makes the run in one forked process after another, each killed at another moment but the last.
KILLED = """
import os, sys
from pathlib import Path
from tests.service.bundles import Shop
from tests.training.shop_clicks import GRU, Files, Silent, settings
from training.loop.run import run
from training.loop.run_steps import STEPS

clicks, artifacts = map(Path, sys.argv[1:])
moments = [(step, moment) for step in STEPS for moment in ("start", "end")]
moments.insert(5, ("train", "epoch"))

class Watcher(Silent):
    def on_epoch(self, phase, record):
        if moment == "epoch":
            os._exit(9)

def killing(whole):
    def step(this):
        if moment != "start":
            whole(this)
        os._exit(9)
    return step

for number, (name, moment) in enumerate([*moments, (None, None)]):
    pid = os.fork()
    if pid == 0:
        try:
            steps = {each: killing(whole) if each == name else whole for each, whole in STEPS.items()}
            run(GRU, settings(artifacts), Files(clicks), Watcher(), steps=steps)
            os._exit(0)
        finally:
            os._exit(1)  # after an error
    _, status = os.waitpid(pid, 0)
    (record,) = (artifacts / "runs").glob("run-*/run.json")
    (artifacts / f"after-{number:02}.json").write_bytes(record.read_bytes())
    print(os.waitstatus_to_exitcode(status), name, moment)
"""


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_shop(tmp_path_factory.mktemp("shop") / "clicks")


@pytest.fixture(scope="module")
def senseless(clicks: Files, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The same popularity, the same last day, and nothing to learn before it."""
    return shuffled(clicks, tmp_path_factory.mktemp("shuffled") / "clicks")


@pytest.fixture(scope="module")
def uninterrupted(clicks: Files, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    """Artifacts with the bundle of a GRUEncoder live."""
    artifacts = tmp_path_factory.mktemp("uninterrupted")
    return artifacts, run(GRU, settings(artifacts), clicks, Silent())


def make(artifacts: Path, source: Files, wanted: RetrainConfig | None = None) -> RunRecord:
    return run(wanted or config(), settings(artifacts), source, Silent())


def outcome(record: RunRecord, step: str) -> dict[str, Any]:
    """What a step found."""
    found = record.steps[step].outcome
    assert found is not None
    return found


def answers(artifacts: Path, data: Path) -> list[list[tuple[str, float]]]:
    """What the champion answers to a hundred sessions of two clicks."""
    champion = read_deployment(artifacts).champion
    assert champion is not None
    model, day = ServedBundle.of(load_bundle(artifacts, champion)), Dataset.load(data)
    index_of = model.bundle.index_of
    starts = day.test.offsets[:100].tolist()
    sessions = [[day.items[item - 1] for item in day.test.items[start : start + 2]] for start in starts]
    known = [[index_of[item_id] for item_id in session if item_id in index_of] for session in sessions]
    return model.rank([Query(session, 20, ()) for session in known if session])


def test_the_bundle_knows_what_to_make_of_items_that_nobody_has_clicked(
    uninterrupted: tuple[Path, RunRecord],
) -> None:
    artifacts, record = uninterrupted
    content = load_bundle(artifacts, record.version).content
    assert content is not None
    assert content.kinds.keys() == {"title", "categories", "brand", "tags", "price"}
    even = content.measured["share of next clicks"]
    assert 0.05 * even < content.measured["share of places"] < 1.1 * even, "neither vanish nor flood"


def test_its_curves_can_be_read_without_its_checkpoints(uninterrupted: tuple[Path, RunRecord]) -> None:
    artifacts, record = uninterrupted
    checkpoints = run_paths(artifacts, record.id).checkpoints
    found = read_progress(checkpoints / "progress.json")
    assert (found.status, found.model, found.dataset) == ("done", "gru", record.id)
    saved = {file.stem: load(file)["state"]["history"] for file in checkpoints.glob("*.pt")}
    assert found.history == saved
    assert {"loss", "mrr@20", "recall@20"} <= found.history["select"][0].keys()


@pytest.mark.parametrize("repeats", [True, False])
def test_a_score_for_repeats_is_fitted_unless_it_is_not_wanted(
    artifacts: Path, clicks: Files, repeats: bool
) -> None:
    wanted = config("gru", "dim=8", "epochs=1", "batch_size=128")
    train = wanted.train.model_copy(update={"repeats": repeats})
    record = make(artifacts, clicks, wanted.model_copy(update={"train": train}))
    assert (load_bundle(artifacts, record.version).manifest.repeat is not None) is repeats


def test_training_that_diverges_stops_the_run_and_is_not_repeated(artifacts: Path, clicks: Files) -> None:
    wanted = config("gru", "dim=8", "epochs=2", "batch_size=128", "lr=1e38")
    stopped = make(artifacts, clicks, wanted)
    assert (stopped.status, stopped.steps["train"].status) == ("stopped", "stopped")
    assert stopped.reason is not None
    assert stopped.reason.startswith("train: training diverged in epoch 1")
    assert read_deployment(artifacts).champion is None
    assert make(artifacts, clicks, wanted).id != stopped.id


def test_a_run_publishes_and_says_what_it_did(artifacts: Path, clicks: Files) -> None:
    record = make(artifacts, clicks)
    paths = run_paths(artifacts, record.id)
    assert read_record(paths.record) == record
    assert (record.status, record.reason) == ("published", None)
    assert record.version == f"vmis_knn-{record.id.removeprefix('run-')}"
    assert record.config == config().model_dump(by_alias=True)
    assert [(name, step.status) for name, step in record.steps.items()] == [(name, "done") for name in STEPS]
    deployed = read_deployment(artifacts)
    assert (deployed.champion, deployed.previous) == (record.version, None)

    data, manifest = Dataset.load(paths.data), Bundle.load(bundle_path(artifacts, record.version)).manifest
    assert outcome(record, "collect") == {"clicks": 0}
    assert outcome(record, "prepare") == {
        "train_sessions": len(data.train_all),
        "test_sessions": len(data.test),
        "items": len(data.items),
        "fingerprint": manifest.data_fingerprint,
        "held_out": outcome(record, "prepare")["held_out"],
    }
    assert outcome(record, "prepare")["held_out"]["days"] == 1
    assert outcome(record, "train")["test"] == manifest.metrics
    assert outcome(record, "evaluate")["champion"] is None
    assert outcome(record, "gate")["passed"] is True
    assert outcome(record, "publish") == {
        "role": "champion",
        "share": 1.0,
        "previous": None,
    }


def test_the_same_clicks_again_are_a_new_run_that_equals_its_champion(artifacts: Path, clicks: Files) -> None:
    first, second = make(artifacts, clicks), make(artifacts, clicks)
    assert first.id != second.id
    assert second.status == "published"
    assert read_deployment(artifacts).previous == first.version
    compared = {check["name"]: check["measured"] for check in outcome(second, "gate")["checks"]}
    assert (compared["recall@20"], compared["mrr@20"]) == (0, 0)


def test_killed_at_every_step_it_comes_to_the_same_end(
    tmp_path: Path, clicks: Files, uninterrupted: tuple[Path, RunRecord]
) -> None:
    artifacts = tmp_path / "artifacts"
    words = [sys.executable, "-c", KILLED, str(clicks.directory), str(artifacts)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a pool of threads does not outlive a fork
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
    codes = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert codes == [9] * 13 + [0], done.stdout + done.stderr

    records = [read_record(file) for file in sorted(artifacts.glob("after-*.json"))]
    final, (whole_artifacts, whole) = records[-1], uninterrupted
    assert (final.status, len({record.id for record in records})) == ("published", 1)
    for record in records:
        for name, step in record.steps.items():
            if step.status == "done":
                assert step == final.steps[name], f"{name} was made again after it was done"
    assert read_deployment(artifacts).champion == final.version
    assert read_deployment(artifacts).previous is None, "it was published once"
    assert [path.name for path in (artifacts / "bundles").iterdir()] == [final.version]

    made, expected = (
        Bundle.load(bundle_path(*each)).manifest
        for each in ((artifacts, final.version), (whole_artifacts, whole.version))
    )
    assert made.created_at < final.steps["train"].started_at, "the bundle that was there was taken"
    assert (made.metrics, made.data_fingerprint) == (expected.metrics, expected.data_fingerprint)
    for name in ("evaluate", "gate"):
        assert _timeless(outcome(final, name)) == _timeless(outcome(whole, name))
    data = run_paths(artifacts, final.id).data
    assert answers(artifacts, data) == answers(whole_artifacts, data)


def _timeless(found: Any) -> Any:
    """Without what a clock decides: versions, how long an answer takes, how many digits the manifest has."""
    if isinstance(found, dict):
        return {key: _timeless(value) for key, value in found.items() if key != "version"}
    if isinstance(found, list):
        return [_timeless(each) for each in found if each["name"] not in ("answer ms, p90", "bundle MB")]
    return found


def test_the_next_run_starts_from_the_champions_weights(
    uninterrupted: tuple[Path, RunRecord], clicks: Files
) -> None:
    artifacts, first = uninterrupted
    assert outcome(first, "train")["why_not"] == "there was no champion"
    second = make(artifacts, clicks, config("gru", "dim=8", "epochs=1", "batch_size=128"))
    learned = outcome(second, "train")
    assert (learned["started_from"], learned["new_items"], learned["fresh"]) == (first.version, 0, [])
    saved = checkpoint.load(run_paths(artifacts, second.id).checkpoint_of("gru"))
    assert saved["identity"]["started_from"] == first.version


class Stopping(Silent):
    """Interrupts at a certain word; keeps all words."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.told: list[str] = []

    def on_step(self, text: str) -> None:
        self.told.append(text)
        if text.startswith(self.word):
            raise KeyboardInterrupt


def interrupted_at(
    word: str, artifacts: Path, clicks: Files, wanted: RetrainConfig
) -> tuple[RunRecord, list[str]]:
    """A run that was interrupted once, and what was told after that."""
    with pytest.raises(KeyboardInterrupt):
        run(wanted, settings(artifacts), clicks, Stopping(word))
    told = Stopping("nothing of this kind is told")
    return run(wanted, settings(artifacts), clicks, told), told.told


SHORT = ("dim=8", "epochs=1", "batch_size=128")
EASY: dict[str, object] = {"margin_recall": 100.0, "margin_mrr": 100.0, "max_drift": 100.0}


def test_validation_chooses_the_model(
    uninterrupted: tuple[Path, RunRecord], tmp_path: Path, clicks: Files
) -> None:
    """Among them is the live one, which goes on from its weights; the run is called by the model that won."""
    live, first = uninterrupted
    artifacts = tmp_path / "artifacts"
    shutil.copytree(live, artifacts)
    publish(artifacts, first.version)
    wanted = config("auto", *SHORT, gate=EASY)
    record, told = interrupted_at("candidate 4 ", artifacts, clicks, wanted)
    assert [text for text in told if text.startswith("candidate ")] == ["candidate 4 of 4: core"]
    assert record.status == "published", record.reason
    learned = outcome(record, "train")
    judged = {each["model"]: each["mrr"] for each in learned["candidates"]}
    assert learned["model"] == max(judged, key=lambda name: float(judged[name]))
    assert record.version == f"{learned['model']}-{record.id.removeprefix('run-')}"
    assert read_deployment(artifacts).champion == record.version
    assert (
        held_out_from(artifacts, record.version)
        .isoformat()
        .startswith(outcome(record, "prepare")["held_out"]["begin"][:19])
    )
    paths = run_paths(artifacts, record.id)
    assert {path.name for path in paths.checkpoints.iterdir() if path.is_dir()} <= {learned["model"]}
    kept = json.loads((paths.checkpoints / "choice.json").read_text())
    starts = {name: each["start"] for name, each in kept["settings"].items()}
    assert starts == dict.fromkeys(judged) | {"gru": first.version}
    assert learned["started_from"] == starts[learned["model"]]


def test_a_student_every_night(artifacts: Path, clicks: Files) -> None:
    """Of two models, one of which is the student, too; interrupted when the teacher is there."""
    wanted = config("auto", *SHORT, train={"blend": ["stamp", "stmp"], "student": "stamp"}, gate=EASY)
    record, told = interrupted_at("student: ", artifacts, clicks, wanted)
    assert not [text for text in told if text.startswith("member ")]  # they are not trained again
    assert record.status == "published", record.reason
    assert record.version == f"stamp-{record.id.removeprefix('run-')}"
    manifest = read_manifest(bundle_path(artifacts, record.version))
    assert manifest.hyperparameters["teacher"] == f"blend-{record.id.removeprefix('run-')}"
    assert (manifest.hyperparameters["refit"], manifest.model) == (True, "stamp")
    paths = run_paths(artifacts, record.id)
    assert not paths.members.exists()
    assert [path.name for path in (artifacts / "bundles").iterdir()] == [record.version]
    parity = next(check for check in outcome(record, "gate")["checks"] if check["name"] == "parity")
    assert (parity["passed"], parity["measured"]) == (True, "equal")
    again = make(artifacts, clicks, wanted)
    assert outcome(again, "train")["started_from"] == record.version


def test_a_teacher_that_cannot_teach_stops_the_run(artifacts: Path, clicks: Files) -> None:
    """To repeat the step would not help: the next run is a new one."""

    def train(_: object) -> NoReturn:
        raise TeacherError("it has nothing to teach")

    wanted = config("auto", *SHORT, train={"blend": ["stamp", "stmp"], "student": "stamp"})
    ended = run(wanted, settings(artifacts), clicks, Silent(), steps={**STEPS, "train": train})
    assert (ended.status, ended.reason) == ("stopped", "train: it has nothing to teach")


def test_a_blend_every_night(artifacts: Path, clicks: Files) -> None:
    """Of two models that are quickly exported."""
    wanted = config("auto", *SHORT, train={"blend": ["stamp", "stmp"]}, gate=EASY)
    record, told = interrupted_at("member 2 ", artifacts, clicks, wanted)
    assert [text for text in told if text.startswith("member ")] == ["member 2 of 2: stmp"]
    assert record.status == "published", record.reason
    assert record.version == f"blend-{record.id.removeprefix('run-')}"
    learned = outcome(record, "train")
    assert (learned["model"], set(learned["members"])) == ("blend", {"stamp", "stmp"})
    manifest = read_manifest(bundle_path(artifacts, record.version))
    assert [manifest.hyperparameters[f"member {number} model"] for number in (1, 2)] == ["stamp", "stmp"]
    assert manifest.metrics == learned["test"]
    paths = run_paths(artifacts, record.id)
    assert not paths.members.exists()
    assert [path.name for path in (artifacts / "bundles").iterdir()] == [record.version]
    parity = next(check for check in outcome(record, "gate")["checks"] if check["name"] == "parity")
    assert (parity["passed"], parity["measured"]) == (True, "equal")

    bundle, data = Bundle.load(bundle_path(artifacts, record.version)), Dataset.load(paths.data)
    other = paths.checkpoint_of("stmp")
    saved = load(other)
    saved["model"]["items.weight"][1] += 1
    checkpoint.save(other, saved)
    spoiled = check_checkpoint(bundle, paths.checkpoint_of, data)
    assert (spoiled.passed, spoiled.measured) == (False, "differs")

    _, hyper = wanted.train.resolved(["stamp"])["stamp"]
    member = paths.checkpoint_of("stamp")
    start = warm_start(artifacts, record.version, member, "stamp", hyper, data.items)
    assert (start.version, start.new_items, start.fresh) == (record.version, 0, ())


def test_a_worse_challenger_is_refused(artifacts: Path, clicks: Files, senseless: Files) -> None:
    good = make(artifacts, clicks)
    deployed = read_deployment(artifacts)
    refused = make(artifacts, senseless)
    assert refused.status == "refused"
    assert refused.reason is not None
    assert refused.reason.startswith("gate: recall@20: ")
    assert "mrr@20" in refused.reason
    assert "publish" not in refused.steps
    assert read_deployment(artifacts) == deployed
    assert deployed.champion == good.version
    assert bundle_path(artifacts, refused.version).is_dir(), "to be looked at"
    assert read_record(run_paths(artifacts, refused.id).record) == refused


def test_a_small_shop_pools_days_that_the_live_one_was_not_trained_on(artifacts: Path, clicks: Files) -> None:
    """500 sessions a day; the first run holds out one day, and the second two of them, one in common."""
    first = make(artifacts, clicks, config(prepare={"test_sessions": 0}))
    pooling = config(prepare={"test_sessions": 800}, gate={"margin_recall": 100.0, "margin_mrr": 100.0})
    second, third = make(artifacts, clicks, pooling), make(artifacts, clicks, pooling)
    held_out = [outcome(record, "prepare")["held_out"] for record in (first, second)]
    assert [each["days"] for each in held_out] == [1, 2]
    assert outcome(second, "evaluate")["since"] == held_out[0]["begin"]
    assert outcome(second, "evaluate")["sessions"] == outcome(first, "evaluate")["sessions"]
    assert (second.status, third.status) == ("published", "published")
    assert outcome(third, "evaluate")["since"] == held_out[1]["begin"]
    assert outcome(third, "evaluate")["sessions"] > 1.5 * outcome(second, "evaluate")["sessions"]
    names = [check["name"] for check in outcome(third, "gate")["checks"]]
    assert "recall@20, champion of 30 days ago" not in names, (
        "that one was trained on the older of the two days"
    )
    assert "recall@20, lead over VMIS-kNN" in names
    assert outcome(second, "prepare")["train_sessions"] < outcome(first, "prepare")["train_sessions"]


def test_what_the_live_one_may_have_been_trained_on_tells_nothing(artifacts: Path, clicks: Files) -> None:
    """A bundle that no run has made, from after the clicks."""
    Shop.make().write(artifacts)
    publish(artifacts, "v1")
    refused = make(artifacts, clicks)
    assert (refused.status, outcome(refused, "gate")["verdict"]) == ("refused", "cannot tell")
    assert outcome(refused, "evaluate")["fair"] is False
    assert refused.reason is not None
    assert "0 sessions that the live bundle cannot have been trained on" in refused.reason
    wide = config(gate={"margin_recall": 100.0, "margin_mrr": 100.0})
    assert make(artifacts, clicks, wide).status == "published"


def test_many_small_losses_are_refused_by_what_was_live_first(
    artifacts: Path, clicks: Files, senseless: Files
) -> None:
    """Margins let anything through against the live one, but not against the first one."""
    wide: dict[str, object] = {"margin_recall": 100.0, "margin_mrr": 100.0, "max_drift": 100.0}
    first, *_ = make(artifacts, clicks), make(artifacts, clicks, config(gate=wide))
    few = config("vmis_knn", "k=1", "m=1", gate={**wide, "max_drift": 5.0})
    refused = make(artifacts, senseless, few)
    assert (refused.status, outcome(refused, "gate")["verdict"]) == ("refused", "worse")
    assert outcome(refused, "evaluate")["anchor"] == first.version
    failed = [check["name"] for check in outcome(refused, "gate")["checks"] if not check["passed"]]
    assert "recall@20, champion of 30 days ago" in failed
    assert "recall@20" not in failed
    assert outcome(first, "evaluate")["lead"] == {"recall": 0, "mrr": 0}, "it is VMIS-kNN itself"


def test_a_better_one_is_published_and_rolled_back(artifacts: Path, clicks: Files, senseless: Files) -> None:
    poor = make(artifacts, senseless)
    assert poor.status == "published", "there was nothing to compare it with"
    data = run_paths(artifacts, poor.id).data
    before = answers(artifacts, data)
    better = make(artifacts, clicks)
    assert better.status == "published"
    assert read_deployment(artifacts).previous == poor.version
    assert answers(artifacts, data) != before
    rollback(artifacts)
    assert answers(artifacts, data) == before


def test_a_challenger_answers_its_share(artifacts: Path, clicks: Files) -> None:
    trial = config(publish={"as": "challenger", "share": 0.2})
    with pytest.raises(RunError, match="there is no champion yet"):
        make(artifacts, clicks, trial)
    champion, challenger = make(artifacts, clicks), make(artifacts, clicks, trial)
    deployed = read_deployment(artifacts)
    assert (deployed.champion, deployed.challenger) == (champion.version, challenger.version)
    assert deployed.challenger_share == 0.2
    published = outcome(challenger, "publish")
    assert (published["role"], published["share"]) == ("challenger", 0.2)


def test_too_few_sessions_stop_a_run_for_good(artifacts: Path, clicks: Files) -> None:
    wanted = config(prepare={"min_sessions": 100_000})
    stopped = make(artifacts, clicks, wanted)
    assert (stopped.status, stopped.steps["prepare"].status) == ("stopped", "stopped")
    assert stopped.reason is not None
    assert "training sessions: [prepare] min_sessions = 100,000" in stopped.reason
    assert make(artifacts, clicks, wanted).id != stopped.id
    assert not (artifacts / "bundles").exists()


def test_no_clicks_stop_a_run(artifacts: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    stopped = make(artifacts, Files(tmp_path / "none"))
    assert (stopped.status, stopped.reason) == ("stopped", "prepare: no clicks are collected yet")


class Broken(Files):
    """Collecting fails."""

    def collect(self) -> NoReturn:
        raise ConnectionError("redis is away")


def test_a_failed_step_says_so_and_is_made_again(artifacts: Path, clicks: Files) -> None:
    with pytest.raises(ConnectionError):
        make(artifacts, Broken(clicks.directory))
    (file,) = artifacts.glob("runs/run-*/run.json")
    failed = read_record(file)
    assert (failed.status, failed.reason) == ("failed", "collect: ConnectionError: redis is away")
    assert failed.steps["collect"].status == "failed"
    done = make(artifacts, clicks)
    assert (done.id, done.status, done.reason) == (failed.id, "published", None)


def test_an_interrupted_run_goes_on(artifacts: Path, clicks: Files) -> None:
    class Impatient(Silent):
        def on_step(self, text: str) -> None:
            if text == "train":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(), settings(artifacts), clicks, Impatient())
    (file,) = artifacts.glob("runs/run-*/run.json")
    left = read_record(file)
    assert left.status == "running"
    done = make(artifacts, clicks)
    assert (done.id, done.status) == (left.id, "published")
    assert done.steps["prepare"] == left.steps["prepare"]


@pytest.mark.parametrize(
    ("meanwhile", "reason"),
    [
        (
            lambda artifacts, _: (Shop.make().write(artifacts), publish(artifacts, "v1")),
            "publish: the champion is v1 now, which vmis_knn-.* was not compared with",
        ),
        (
            lambda artifacts, stamp: (publish(artifacts, f"vmis_knn-{stamp}"), rollback(artifacts)),
            "publish: vmis_knn-.* was published, and rolled back since",
        ),
    ],
    ids=["another champion", "rolled back"],
)
def test_it_publishes_only_over_what_it_was_compared_with(
    artifacts: Path, clicks: Files, meanwhile: Callable[[Path, str], object], reason: str
) -> None:
    make(artifacts, clicks)

    class Operator(Silent):
        def on_step(self, text: str) -> None:
            if text == "publish":
                meanwhile(artifacts, max(artifacts.glob("runs/run-*")).name.removeprefix("run-"))

    stopped = run(config(), settings(artifacts), clicks, Operator())
    assert stopped.status == "stopped"
    assert stopped.reason is not None
    assert re.fullmatch(reason, stopped.reason)
    assert read_deployment(artifacts).champion != stopped.version


def test_refused_bundles_are_kept_only_so_far(artifacts: Path, clicks: Files, senseless: Files) -> None:
    wanted = config(publish={"keep": 2})
    make(artifacts, clicks, wanted)
    refused = [make(artifacts, senseless, wanted).version for _ in range(3)]
    left = {path.name for path in (artifacts / "bundles").iterdir()}
    assert left == {read_deployment(artifacts).champion, *refused[1:]}


def test_the_newest_days_are_learned_from(artifacts: Path, clicks: Files) -> None:
    two, all_days = (make(artifacts, clicks, config(prepare={"days": days})) for days in (2, DAYS))
    fewer, more = outcome(two, "prepare"), outcome(all_days, "prepare")
    assert 0 < fewer["train_sessions"] < 0.6 * more["train_sessions"]
