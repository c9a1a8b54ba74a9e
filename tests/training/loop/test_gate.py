"""The gate: its bootstrap against plain formulas, and a bundle made to fail each check."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from models.sessions import Sessions
from service.live.deployment import Deployment
from service.ranking.bundle import Bundle
from service.ranking.served import Query, Scored, ServedBundle
from tests.service.bundles import Shop
from tests.training.planted import planted_dataset
from tests.training.shop_clicks import Silent
from training.data.dataset import Dataset
from training.fit import FitOptions, fit
from training.learn import checkpoint
from training.learn.hyper import resolve, resolve_counted
from training.learn.registry import find_model
from training.loop.gate import (
    FEW,
    CaseRanks,
    Check,
    Lead,
    Measured,
    answer_problem,
    check_checkpoint,
    check_drift,
    check_ranks,
    check_replay,
    gains,
    judge,
    paired_difference,
    sessions_needed,
    verdict,
)
from training.loop.retrain import GateConfig
from training.measure.metrics import MISSED, Ranks

ONE_EACH = np.ones(400, dtype=np.int64)


def test_gains_of_ranks() -> None:
    ranks = np.array([1, 4, 20, 21, MISSED])
    np.testing.assert_array_equal(gains(ranks, "recall@20"), [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(gains(ranks, "mrr@20"), [1, 0.25, 0.05, 0, 0])


def test_equal_bundles_differ_by_exactly_nothing() -> None:
    random = np.random.default_rng(1)
    cases = random.integers(1, 9, 300)
    same = random.random(cases.sum())
    found = paired_difference(same, same.copy(), cases, 0.95)
    assert (found.points, found.low, found.high, found.lower, found.upper, found.error) == (0,) * 6


def test_a_difference_that_is_the_same_in_every_session_is_certain() -> None:
    """Champion finds both targets of each session, challenger one: fifty points, whoever is drawn."""
    cases = np.full(50, 2)
    found = paired_difference(np.ones(100), np.tile([1.0, 0.0], 50), cases, 0.95)
    assert (found.champion, found.challenger, found.points) == (100, 50, -50)
    assert (found.low, found.high, found.lower) == (-50, -50, -50)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_is_that_of_a_mean(confidence: float) -> None:
    """One case a session: the ends lie where the normal distribution has them."""
    random = np.random.default_rng(2)
    champion, challenger = (random.random((2, 400)) < [[0.5], [0.4]]).astype(float)
    found = paired_difference(champion, challenger, ONE_EACH, confidence)
    difference = 100 * (challenger - champion)
    error = difference.std() / np.sqrt(400)
    two_sided, one_sided = {0.8: (1.2816, 0.8416), 0.95: (1.9600, 1.6449)}[confidence]
    assert found.points == pytest.approx(difference.mean())
    tolerance = 0.15 * error  # about three standard errors of a quantile of 2,000 draws
    assert found.low == pytest.approx(difference.mean() - two_sided * error, abs=tolerance)
    assert found.high == pytest.approx(difference.mean() + two_sided * error, abs=tolerance)
    assert found.lower == pytest.approx(difference.mean() - one_sided * error, abs=tolerance)
    assert found.upper == pytest.approx(difference.mean() + one_sided * error, abs=tolerance)
    assert found.error == pytest.approx(error, rel=0.07)


def test_many_sessions_are_drawn_as_few_are() -> None:
    """Each ten times, which is more than is remembered of: the error is that of ten times as many."""
    assert len(ONE_EACH) <= FEW < 10 * len(ONE_EACH)
    random = np.random.default_rng(2)
    champion, challenger = (random.random((2, 400)) < [[0.5], [0.4]]).astype(float)
    found = paired_difference(np.tile(champion, 10), np.tile(challenger, 10), np.tile(ONE_EACH, 10), 0.95)
    difference = 100 * (challenger - champion)
    error = difference.std() / np.sqrt(4000)
    assert found.error == pytest.approx(error, rel=0.07)
    assert found.lower == pytest.approx(difference.mean() - 1.6449 * error, abs=0.15 * error)


def test_sessions_are_drawn_and_not_cases() -> None:
    """Ten copies of each case in its session are no new evidence."""
    random = np.random.default_rng(3)
    champion, challenger = (random.random((2, 400)) < 0.5).astype(float)
    one = paired_difference(champion, challenger, ONE_EACH, 0.95)
    ten = paired_difference(champion.repeat(10), challenger.repeat(10), 10 * ONE_EACH, 0.95)
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))
    as_cases = paired_difference(champion.repeat(10), challenger.repeat(10), ONE_EACH.repeat(10), 0.95)
    assert as_cases.high - as_cases.low < 0.5 * (one.high - one.low)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Sessions of unequal length whose true difference is known, again and again."""
    random = np.random.default_rng(4)
    held = 0
    for _ in range(100):
        cases = random.integers(1, 6, 200)
        champion = (random.random(cases.sum()) < 0.4).astype(float)
        challenger = (random.random(cases.sum()) < 0.3).astype(float)
        found = paired_difference(champion, challenger, cases, 0.9)
        held += found.low <= -10 <= found.high
    assert 82 <= held <= 97  # 90 expected, and a standard error of 3


@pytest.mark.parametrize(("lost", "passes"), [(0, True), (3, True), (8, False)])
def test_so_much_may_be_lost(lost: int, passes: bool) -> None:
    """Of 400 cases the challenger misses a few: 0.75 points of Recall are within a margin of 2, 2 are not."""
    champion = np.ones(400, dtype=np.int64)
    challenger = np.where(np.arange(400) < lost, MISSED, champion)
    gate = GateConfig(margin_recall=2.0, margin_mrr=2.0)
    checks = list(check_ranks(gate, CaseRanks(ONE_EACH, challenger, champion)))
    assert [check.name for check in checks] == ["recall@20", "mrr@20"]
    assert [check.passed for check in checks] == [passes, passes]
    assert checks[0].limit == -2.0
    assert f"champion 100.00: {-lost / 4:+.2f} points" in checks[0].detail


def test_recall_may_pass_where_mrr_does_not() -> None:
    champion, challenger = np.ones(400, dtype=np.int64), np.full(400, 20)
    recall, mrr = check_ranks(GateConfig(), CaseRanks(ONE_EACH, challenger, champion))
    assert (recall.passed, mrr.passed) == (True, False)


def test_without_a_champion_nothing_is_compared() -> None:
    assert list(check_ranks(GateConfig(), CaseRanks(ONE_EACH, ONE_EACH, None))) == []


def of_some(found: int, of: int = 400) -> Ranks:
    """The first ranks of `of` cases hit, the others miss."""
    return np.where(np.arange(of) < found, 1, MISSED)


@pytest.mark.parametrize(
    ("lost", "told"), [([], "not worse"), (range(40), "worse"), ([0, 1, 2, 3, 4, 5, 400, 401], "cannot tell")]
)
def test_worse_is_told_from_cannot_tell(lost: Sequence[int], told: str) -> None:
    """A tenth of all is lost for certain; of eight cases that differ, two the other way, nobody knows."""
    champion, challenger = of_some(400, 500), of_some(400, 500)
    challenger[list(lost)] = np.where(champion[list(lost)] == 1, MISSED, 1)
    gate = GateConfig(margin_recall=1.0, margin_mrr=100.0)
    recall, mrr = check_ranks(gate, CaseRanks(np.ones(500, dtype=np.int64), challenger, champion))
    assert (recall.verdict, recall.passed) == (told, told == "not worse")
    assert recall.detail.startswith(f"{told}: ")
    assert ("of equal bundles 9 of 10 pass with" in recall.detail) is (told == "cannot tell")
    assert mrr.passed
    assert verdict([recall, mrr]) == ("passed" if told == "not worse" else told)


def test_so_many_sessions_are_needed() -> None:
    """The limit of 95 % lies 1.6449 errors away, and 9 of 10 lie within 1.2816 of the truth."""
    assert sessions_needed(2.0, 100, 2.92, 0.95) == 402  # 401.8
    assert sessions_needed(2.0, 100, 0.0, 0.95) == 0


def test_sessions_that_the_live_one_may_have_seen_tell_nothing() -> None:
    ranks = CaseRanks(ONE_EACH, ONE_EACH, ONE_EACH, ONE_EACH, fair=False)
    checks = [*check_ranks(GateConfig(), ranks), *check_drift(GateConfig(), ranks, None, None)]
    assert [(check.name, check.passed, check.verdict) for check in checks] == [
        ("recall@20", False, "cannot tell"),
        ("mrr@20", False, "cannot tell"),
    ]
    anything = GateConfig(margin_recall=100, margin_mrr=100)
    assert all(check.passed for check in check_ranks(anything, ranks))


@pytest.mark.parametrize(("sessions", "passed"), [(49, False), (50, True)])
def test_a_handful_that_does_not_differ_tells_nothing(sessions: int, passed: bool) -> None:
    same = np.ones(sessions, dtype=np.int64)
    recall, mrr = check_ranks(GateConfig(), CaseRanks(same, same, same))
    assert (recall.passed, mrr.passed) == (passed, passed)
    assert recall.verdict == ("not worse" if passed else "cannot tell")


def test_what_was_live_long_ago_holds_the_nights_together() -> None:
    """Each night's loss is within its margin: against the champion 2 points, against that of long ago 8."""
    ranks = CaseRanks(ONE_EACH, of_some(368), of_some(376), of_some(400))
    gate = GateConfig(margin_recall=5.0, margin_mrr=5.0)
    assert all(check.passed for check in check_ranks(gate, ranks))
    drift = list(check_drift(gate, ranks, None, None))
    assert [check.name for check in drift] == [
        "recall@20, champion of 30 days ago",
        "mrr@20, champion of 30 days ago",
    ]
    assert [(check.passed, check.limit, check.verdict) for check in drift] == [(False, -5.0, "worse")] * 2
    far = gate.model_copy(update={"max_drift": 15.0})
    assert all(check.passed for check in check_drift(far, ranks, None, None))


@pytest.mark.parametrize(("now", "passed"), [(3.0, True), (-1.9, True), (-2.1, False)])
def test_the_lead_over_vmis_knn_may_not_shrink(now: float, passed: bool) -> None:
    ranks = CaseRanks(ONE_EACH, ONE_EACH, ONE_EACH)
    recall, mrr = check_drift(GateConfig(), ranks, Lead(now, 0.0), Lead(3.0, 0.0))
    assert (recall.name, recall.passed, mrr.passed) == ("recall@20, lead over VMIS-kNN", passed, True)
    assert recall.measured == pytest.approx(now - 3)
    assert list(check_drift(GateConfig(), ranks, Lead(now, 0.0), None)) == []


def test_another_failure_is_no_verdict_on_the_quality() -> None:
    quality = Check("recall@20", False, -9.0, -2.5, verdict="worse")
    assert verdict([quality, Check("bundle MB", False, 2.0, 1.0)]) == "refused"
    assert verdict([quality, Check("mrr@20", False, -2.0, -1.5, verdict="cannot tell")]) == "worse"


def test_a_check_in_one_line() -> None:
    assert Check("item coverage", False, 1 / 3, 0.5).summary == "item coverage: 0.3333, limit 0.5"
    assert Check("loads", False, "no", "yes", "why").summary == "loads: no, limit yes (why)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """Artifacts with an encoder `v1`, its checkpoint and neighbours `v2`, and what they were trained on."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    data = planted_dataset(artifacts / "data")
    recipe, hyper = resolve(find_model("gru"), ["dim=8", "epochs=1"])
    options = FitOptions(recipe, hyper, 1, "32", 1, artifacts, checkpoints=artifacts, version="v1")
    fit("gru", data, options, Silent(), "test")
    counted = resolve_counted("vmis_knn", [])
    options = FitOptions(None, counted, 1, "32", 1, artifacts, refit=True, version="v2")
    fit("vmis_knn", data, options, Silent(), "test")
    return artifacts, data


MEASURED = Measured("v1", recall=50, mrr=20, item_coverage=0.9, catalogue_coverage=0.8)
RANKS = CaseRanks(ONE_EACH, ONE_EACH, ONE_EACH)


def verdict_of(made: tuple[Path, Dataset], version: str, gate: dict[str, float]) -> dict[str, bool]:
    artifacts, data = made
    settings = GateConfig.model_validate({"max_answer_ms": 10_000.0, **gate})
    measured = dataclasses.replace(MEASURED, version=version)
    leads = (None, None)
    checks = judge(
        settings,
        artifacts,
        measured,
        RANKS,
        leads,
        data,
        data,
        lambda _: artifacts / "select.pt",
        Deployment(),
    )
    return {check.name: check.passed for check in checks}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_good_bundle_passes_every_check(made: tuple[Path, Dataset], version: str) -> None:
    passed = verdict_of(made, version, {})
    assert passed == dict.fromkeys(
        [
            *("loads", "parity", "recall@20", "mrr@20", "answer ms, p90", "item coverage"),
            *("catalogue coverage", "bundle MB", "replay"),
        ],
        True,
    )


@pytest.mark.parametrize(
    ("gate", "failing"),
    [
        ({"max_answer_ms": 1e-6}, {"answer ms, p90"}),
        ({"min_item_coverage": 0.91}, {"item coverage"}),
        ({"min_catalogue_coverage": 0.81}, {"catalogue coverage"}),
        ({"max_bundle_mb": 0.001}, {"bundle MB"}),
    ],
)
def test_each_limit_refuses(made: tuple[Path, Dataset], gate: dict[str, float], failing: set[str]) -> None:
    passed = verdict_of(made, "v1", gate)
    assert {name for name, is_passed in passed.items() if not is_passed} == failing


def test_what_does_not_load_is_judged_no_further(made: tuple[Path, Dataset], tmp_path: Path) -> None:
    path = Shop.make().write(tmp_path, "v9")
    (path / "index.faiss").write_bytes(b"")
    _, data = made
    measured = dataclasses.replace(MEASURED, version="v9")
    (check,) = judge(
        GateConfig(), tmp_path, measured, RANKS, (None, None), data, data, lambda _: tmp_path, Deployment()
    )
    assert (check.name, check.passed) == ("loads", False)
    assert "index.faiss: sha256 differs" in check.detail


def test_other_weights_than_the_checkpoints_are_refused(made: tuple[Path, Dataset], tmp_path: Path) -> None:
    artifacts, data = made
    saved = checkpoint.load(artifacts / "select.pt")
    saved["state"]["best_weights"]["items.weight"][1] += 1
    checkpoint.save(tmp_path / "other.pt", saved)
    check = check_checkpoint(Bundle.load(artifacts / "bundles/v1"), lambda _: tmp_path / "other.pt", data)
    assert not check.passed
    assert "differ" in check.detail
    counted = check_checkpoint(Bundle.load(artifacts / "bundles/v2"), lambda _: tmp_path / "none.pt", data)
    assert (counted.passed, counted.measured) == (True, None)


def shop_model(tmp_path: Path, *hidden: str) -> ServedBundle:
    return ServedBundle.of(Bundle.load(Shop.make().write(tmp_path)), frozenset(hidden))


def day_of(sessions: list[list[str]]) -> Dataset:
    """A day with these sessions; the rest of the data set is not looked at."""
    items = sorted({item_id for session in sessions for item_id in session})
    clicks = np.array([items.index(item) + 1 for session in sessions for item in session], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(session) for session in sessions])])
    test = Sessions(clicks, offsets, len(items))
    return Dataset(Path(), None, items, test, test)  # type: ignore[arg-type]


def test_the_newest_sessions_are_replayed(tmp_path: Path) -> None:
    bundle = shop_model(tmp_path).bundle
    day = day_of([["i1", "i2"], ["x", "y"], ["i3", "x", "i4"], ["i5", *["i6"] * 30]])
    for n, measured in ((2, "0 bad of 2 answers"), (9, "0 bad of 3 answers")):
        check = check_replay(bundle, day, Deployment(hidden=("i7",), exclude_seen=True), n)
        assert (check.passed, check.measured) == (True, measured)
    nothing = check_replay(bundle, day_of([["x", "y"]]), Deployment(), 9)
    assert (nothing.passed, nothing.measured) == (False, "nothing to replay")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda answer: answer, None),
        (lambda answer: answer[:-1], "19 items, and there are 58 to ['i1', 'i2']"),
        (lambda answer: [*answer, ("i60", -1.0)], "21 items instead of 20"),
        (lambda answer: [answer[0], *answer[:-1]], "an item twice"),
        (lambda answer: [(answer[0][0], float("nan")), *answer[1:]], "a score that is not finite"),
        (lambda answer: [answer[1], answer[0], *answer[2:]], "scores that rise"),
        (lambda answer: [*answer[:-1], ("i9", answer[-1][1])], "hidden items to ['i1', 'i2']: ['i9']"),
    ],
)
def test_a_bad_answer_is_noticed(tmp_path: Path, spoil: object, problem: str | None) -> None:
    model = shop_model(tmp_path, "i9")
    query = Query([1, 2], 20, {1})
    answer = model.rank([query])[0]
    assert len(answer) == 20
    assert callable(spoil)
    spoiled: list[Scored] = spoil(answer)
    found = answer_problem(model, query, spoiled, frozenset({"i9"}))
    assert found == problem or (problem is not None and problem in str(found))


def test_few_items_are_all_that_can_be_answered(tmp_path: Path) -> None:
    """A catalogue of three, one hidden and one seen, has a single answer."""
    model = ServedBundle.of(Bundle.load(Shop.make(n_items=3).write(tmp_path)), frozenset({"i1"}))
    query = Query([2], 20, {2})
    answer = model.rank([query])[0]
    assert [item_id for item_id, _ in answer] == ["i3"]
    assert answer_problem(model, query, answer, frozenset({"i1"})) is None
