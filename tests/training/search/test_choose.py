"""`--model auto`: what is tried, what wins, what it costs, and what an interruption leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.live.deployment import publish
from tests.service.bundles import Shop, edit_manifest
from tests.training.planted import planted_dataset, planted_sessions, write_dataset
from tests.training.shop_clicks import Silent
from training.__main__ import app
from training.data.dataset import Dataset
from training.fit import FitOptions, fit
from training.learn.checkpoint import CheckpointError, Phase
from training.learn.hyper import HyperError
from training.learn.train import DivergedError
from training.search.candidates import CANDIDATES, candidates, shared_settings
from training.search.choose import FILE, Choice, choose, options_of

GRU = "gru"

SMALL = ["dim=8", "lr=0.02", "batch_size=64"]
COUNTED = ["vmis_knn", "item_knn", "vsknn"]
FOREVER = 1e9


class Recorder(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.epochs: list[tuple[Phase, int]] = []

    def on_step(self, text: str) -> None:
        self.told.append(text)

    def on_epoch(self, phase: Phase, record: dict[str, float]) -> None:
        self.epochs.append((phase, int(record["epoch"])))

    def begun(self) -> list[str]:
        return [text.rpartition(" ")[2] for text in self.told if text.startswith("candidate ")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return planted_dataset(tmp_path_factory.mktemp("data") / "data")


def options(place: Path, epochs: Mapping[str, int], *, repeats: bool = True) -> dict[str, FitOptions]:
    """Candidates that are trained for so many epochs; of what is counted the number says nothing."""
    whole = FitOptions(None, {}, 1, "32", 1, place, repeats=repeats)
    return {
        name: options_of(shared_settings([name], [*SMALL, f"epochs={count}"]), whole, place / "auto")[name]
        for name, count in epochs.items()
    }


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_without_a_model_validation_chooses_one(data: Dataset, tmp_path: Path) -> None:
    """It alone becomes a bundle, and is as good on validation as it was judged to be."""
    sets = [word for each in (*SMALL, "epochs=3") for word in ("--set", each)]
    words = ["train", "--data", str(data.path), *sets, "--threads", "1", "--artifacts", str(tmp_path)]
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    tried = {each["model"]: each for each in told["candidates"]}
    assert tuple(tried) == CANDIDATES
    best = max(tried, key=lambda name: float(tried[name]["mrr"]))
    assert told["model"] == best
    (place,) = (tmp_path / "bundles").iterdir()
    assert place.name == told["bundle"]
    measured = run("evaluate", "--bundle", str(place), "--data", str(data.path), "--split", "validation")
    metrics = json.loads(measured.stdout)["metrics"]
    assert metrics["mrr@20"] == pytest.approx(tried[best]["mrr"])
    assert metrics["recall@20"] == pytest.approx(tried[best]["recall"])
    table = result.stderr.partition("candidates, on validation")[2].splitlines()
    rows = [line.split() for line in table if line.partition(" ")[0] in CANDIDATES]
    assert [row[0] for row in rows] == [*CANDIDATES]
    assert [row[0] for row in rows if row[-1] == "chosen"] == [best]


def test_scores_for_repeats_decide(data: Dataset, tmp_path: Path) -> None:
    """Nothing comes again in these sessions: a mean of vectors is the best, once it is told."""
    epochs = {GRU: 1, "core": 3}
    with_them = choose(
        options(tmp_path / "a", epochs), data, tmp_path / "a/auto", FOREVER, Silent(), resume=False
    )
    gru, core = with_them.found
    assert with_them.model == "core"
    assert core.mrr is not None
    assert gru.mrr_without is not None
    assert core.mrr_without is not None
    assert core.mrr > gru.mrr_without > core.mrr_without
    tried = options(tmp_path / "a", epochs, repeats=False)
    with pytest.raises(CheckpointError, match=r"choice\.json: gru was judged .*repeats was True, is False"):
        choose(tried, data, tmp_path / "a/auto", FOREVER, Silent(), resume=True)
    assert choose(tried, data, tmp_path / "a/auto", FOREVER, Silent(), resume=False).model == GRU


def test_an_interrupted_choice_goes_on_and_so_does_the_winner(data: Dataset, tmp_path: Path) -> None:
    class Interrupting(Recorder):
        def on_epoch(self, phase: Phase, record: dict[str, float]) -> None:
            super().on_epoch(phase, record)
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    tried = options(tmp_path, {"vmis_knn": 0, GRU: 3})
    directory = tmp_path / "auto"
    first, second, third = Interrupting(), Recorder(), Recorder()
    with pytest.raises(KeyboardInterrupt):
        choose(tried, data, directory, FOREVER, first, resume=False)
    assert first.begun() == ["vmis_knn", GRU]
    choice = choose(tried, data, directory, FOREVER, second, resume=True)
    assert second.begun() == [GRU]
    assert second.epochs == [("select", 3)]
    assert choice.model == GRU
    chosen = replace(tried[choice.model], resume=True, refit=True, test=False, version="v1")
    fitted = fit(choice.model, data, chosen, third, "test")
    assert {phase for phase, _ in third.epochs} == {"refit"}, "it is not trained for validation again"
    assert fitted.result["validation"] == {
        "recall@20": pytest.approx(100.0),
        "mrr@20": pytest.approx(choice.found[1].mrr_without),
    }
    told, anew = Recorder(), Recorder()
    assert choose(tried, data, directory, FOREVER, told, resume=True) == choice
    assert told.told == []
    assert choose(tried, data, directory, FOREVER, anew, resume=False).model == GRU
    assert anew.begun() == ["vmis_knn", GRU]
    assert [epoch for _, epoch in anew.epochs] == [1, 2, 3]


class Clock(Recorder):
    """Each candidate takes a hundred seconds."""

    seconds = 0.0

    def on_step(self, text: str) -> None:
        super().on_step(text)
        self.seconds += 100 * text.startswith("candidate ")

    def __call__(self) -> float:
        return self.seconds


def test_nothing_is_begun_once_the_budget_is_spent(data: Dataset, tmp_path: Path) -> None:
    tried, clock = options(tmp_path, dict.fromkeys(COUNTED, 0)), Clock()
    choice = choose(tried, data, tmp_path / "auto", 150, clock, resume=False, clock=clock)
    assert [found.state for found in choice.found] == ["judged", "judged", "not tried"]
    assert clock.begun() == COUNTED[:2]
    assert "vsknn: not tried: the budget of 2.5 minutes is spent" in clock.told
    least = choose(tried, data, tmp_path / "auto", 0, Silent(), resume=False)
    assert [found.state for found in least.found] == ["judged", "not tried", "not tried"], (
        "one is always tried"
    )


def test_the_budget_is_that_of_all_processes_together(data: Dataset, tmp_path: Path) -> None:
    class Interrupted(Clock):
        def on_step(self, text: str) -> None:
            if text.startswith("candidate 2 "):
                raise KeyboardInterrupt
            super().on_step(text)

        def __call__(self) -> float:
            self.seconds += 60
            return self.seconds

    tried, clock = options(tmp_path, dict.fromkeys(COUNTED, 0)), Interrupted()
    with pytest.raises(KeyboardInterrupt):
        choose(tried, data, tmp_path / "auto", 1000, clock, resume=False, clock=clock)
    kept = json.loads((tmp_path / "auto" / FILE).read_text())
    spent = kept["found"][0]["seconds"]
    assert spent >= 60
    choice = choose(tried, data, tmp_path / "auto", spent, Silent(), resume=True)
    assert [found.state for found in choice.found] == ["judged", "not tried", "not tried"]


def test_one_that_diverges_is_no_candidate_any_more(data: Dataset, tmp_path: Path) -> None:
    wild = options(tmp_path, {GRU: 1, "vmis_knn": 0})
    recipe = wild[GRU].recipe
    assert recipe is not None
    wild[GRU] = replace(wild[GRU], recipe=replace(recipe, lr=1e38))
    choice = choose(wild, data, tmp_path / "auto", FOREVER, Silent(), resume=False)
    assert (choice.model, choice.found[0].state) == ("vmis_knn", "failed")
    del wild["vmis_knn"]
    with pytest.raises(DivergedError, match=f"{GRU}: failed: training diverged in epoch 1"):
        choose(wild, data, tmp_path / "auto", FOREVER, Silent(), resume=False)


def test_without_validation_it_says_what_it_takes(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "d", planted_sessions(60), planted_sessions(9, seed=1), n_validation=0)
    told = Recorder()
    tried = options(tmp_path, dict.fromkeys(CANDIDATES, 1))
    assert choose(tried, data, tmp_path / "auto", FOREVER, told, resume=False) == Choice("niser")
    assert told.told == ["no session is held back for validation: no model can be chosen, niser is taken"]


def test_the_live_model_is_tried_too(artifacts: Path) -> None:
    told: list[str] = []
    assert [*candidates(artifacts, [], told.append)] == [*CANDIDATES]
    path = Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    for model, more in (("stamp", ["stamp"]), ("niser", []), ("vsknn", ["vsknn"])):
        edit_manifest(path, model=model)
        assert [*candidates(artifacts, ["epochs=5"], told.append)] == [*CANDIDATES, *more]
    assert told == []
    edit_manifest(path, model="blend")
    assert [*candidates(artifacts, [], told.append)] == [*CANDIDATES]
    edit_manifest(path, model="lightgcn")  # its batches are of pairs
    assert [*candidates(artifacts, ["time_order=true"], told.append)] == [*CANDIDATES]
    assert [text.partition(": ")[2] for text in told] == [
        "a blend is not trained by itself",
        "--set time_order=true: batches of interactions have an order of their own",
    ]


def test_settings_are_those_that_all_have() -> None:
    found = shared_settings(CANDIDATES, ["dim=16", "epochs=4"])
    assert {name for name, (recipe, _) in found.items() if recipe is None} == {"vmis_knn"}
    for recipe, hyper in found.values():
        assert recipe is None or (recipe.epochs, hyper["dim"]) == (4, 16)
    with pytest.raises(
        HyperError, match=r"--set steps: gru has no .* of several models all that are trained"
    ):
        shared_settings(CANDIDATES, ["steps=2"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "steps=2"], "of several models all that are trained must have it"),
        (["--paper"], "--paper: says something of one model: name a --model"),
        (["--refit-epochs", "3"], "--refit-epochs: says something of one model"),
        (["--devices", "2", "--device", "cpu"], "models are chosen by one process"),
        (["--model", "niser", "--budget-minutes", "3"], "--budget-minutes: is for --model auto"),
    ],
)
def test_what_says_nothing_of_several_models_is_refused(
    data: Dataset, tmp_path: Path, words: list[str], message: str
) -> None:
    result = run("train", "--data", str(data.path), "--artifacts", str(tmp_path / "a"), *words)
    assert (result.exit_code, message in " ".join(result.output.split())) == (2, True), result.output
    assert not (tmp_path / "a/bundles").exists()


def test_what_is_counted_is_left_out_where_attributes_are_to_count(data: Dataset, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n" + "".join(f"{name},the {name}\n" for name in data.items))
    sets = [word for each in (*SMALL, "epochs=1") for word in ("--set", each)]
    words = ["--items", str(items), "--budget-minutes", "0", "--threads", "1", "--artifacts", str(tmp_path)]
    result = run("train", "--data", str(data.path), *sets, *words, "--json")
    assert "what is counted has no vectors of items, and is not tried" in result.stderr
    assert "50 are the least that content is learned from" in result.stderr, "at the export of the GRU"
    kept = json.loads((tmp_path / f"runs/planted/auto-seed1/{FILE}").read_text())
    states = {each["model"]: each["state"] for each in kept["found"]}
    assert states == {GRU: "judged", "niser": "not tried", "core": "not tried"}
