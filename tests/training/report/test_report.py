"""The leaderboard page: its figures against results written by hand, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import stdtr
from typer.testing import CliRunner

from training.__main__ import app
from training.measure.results import ResultError, TargetRanks
from training.measure.significance import against_best, holm, paired_p, session_sums
from training.report.leaderboard import ReportError
from training.report.page import table
from training.report.pictures import FONT_SIZE, FRAME, PICTURES, SMALL
from training.report.published import PUBLISHED
from training.report.write import known_models, write_reports

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs" / "results"

Sessions = Sequence[Sequence[int]]  # for each test session the ranks of its targets, 0: not among the 20

GOOD: Sessions = [[1, 2], [4], [0, 1, 20]]  # 5 of 6 hit; 1 + 1/2 + 1/4 + 1 + 1/20 = 2.8
FAIR: Sessions = [[1, 0], [2], [0, 0, 10]]  # 3 of 6 hit; 1 + 1/2 + 1/10 = 1.6
POOR: Sessions = [[0, 0], [5], [0, 0, 0]]  # 1 of 6 hit; 1/5 = 0.2


def write_run(
    place: Path, model: str, sessions: Sessions, seed: int = 1, ranks: bool = True, **changed: object
) -> Path:
    """A result as `train` writes it, of a model no module knows; `changed` replaces or adds fields."""
    place.mkdir(parents=True, exist_ok=True)
    flat = [rank for session in sessions for rank in session]
    test = {
        "recall@20": 100 * sum(rank > 0 for rank in flat) / len(flat),
        "mrr@20": 100 * sum(1 / rank for rank in flat if rank) / len(flat),
        "popularity@20": 12.4,
    }
    result: dict[str, object] = {
        "model": model,
        "dataset": place.name,
        "command": f"python -m training train --model {model} --seed {seed}",
        "commit": "0123456789ab",
        "seed": seed,
        "threads": 2,
        "trained_on": "training sessions",
        "epochs": 3,
        "wall_seconds": 90,
        "test_cases": len(flat),
        "test": test,
        "test_without_seen_items": {"recall@20": 1.25},
        "title": model.upper(),
        "cited": "We 2020",
        "family": "sequence",
        **changed,
    }
    variant = f".{changed['variant']}" if "variant" in changed else ""
    file = place / (f"{model}{variant}.json" if seed == 1 else f"{model}{variant}.seed{seed}.json")
    file.write_text(json.dumps({field: value for field, value in result.items() if value is not None}))
    if ranks:
        cases = np.array([len(session) for session in sessions], dtype=np.uint16)
        np.savez(file.with_suffix(".npz"), ranks=np.array(flat, dtype=np.uint8), cases=cases)
    return file


def rows_of(place: Path, heading: str, known: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """The cells of the table below a heading of the page, by model and column, in the page's order."""
    write_reports(place.parent, known)
    below = (place / "README.md").read_text().split(f"\n## {heading}\n" if heading else ": leaderboard\n")[1]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE).group().splitlines()  # type: ignore[union-attr]
    header, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_the_best_recall_stands_first_and_ties_go_by_name(tmp_path: Path) -> None:
    place = tmp_path / "shop"
    for model, sessions in (("poor", POOR), ("b_good", GOOD), ("a_good", GOOD), ("fair", FAIR)):
        write_run(place, model, sessions, ranks=False)
    rows = rows_of(place, "")
    assert list(rows) == [f"{name} (We 2020)" for name in ("A_GOOD", "B_GOOD", "FAIR", "POOR")]
    assert [row["Recall@20"] for row in rows.values()] == ["83.33", "83.33", "50.00", "16.67"]
    assert [row["MRR@20"] for row in rows.values()] == ["46.67", "46.67", "26.67", "3.33"]
    assert {row["p, Recall@20"] for row in rows.values()} == {"–"}, "no ranks, no comparison"


def test_seeds_are_a_mean_and_a_deviation(tmp_path: Path) -> None:
    place = tmp_path / "shop"
    for seed, recall in ((1, 50.0), (2, 60.0), (3, 70.0)):
        figures = {"recall@20": recall, "mrr@20": 20.0 + seed, "ndcg@20": float(seed)}
        write_run(place, "several", FAIR, seed, ranks=False, test=figures)
    write_run(place, "single", FAIR, ranks=False, test={"recall@20": 55.0, "mrr@20": 30.0})
    rows = rows_of(place, "")
    assert list(rows) == ["SEVERAL (We 2020)", "SINGLE (We 2020)"], "by the mean, 60, not by seed 1's 50"
    assert rows["SEVERAL (We 2020)"]["Recall@20"] == "60.00 ± 10.00 (3)"
    assert rows["SEVERAL (We 2020)"]["MRR@20"] == "22.00 ± 1.00 (3)"
    assert rows["SINGLE (We 2020)"]["Recall@20"] == "55.00"
    assert rows_of(place, "More metrics")["SEVERAL"]["NDCG@20"] == "1.00", "of seed 1"
    page = (place / "README.md").read_text()
    for seed in (1, 2, 3):
        assert f"--model several --seed {seed}`" in page


def test_a_variant_is_a_line_of_its_own(tmp_path: Path) -> None:
    place = tmp_path / "diginetica"
    write_run(place, "sgnn_hn", POOR, variant="paper")
    assert {"SGNN_HN, paper (We 2020)", "SGNN-HN (Pan et al. 2020)"} <= rows_of(place, "", ["sgnn_hn"]).keys()
    write_run(place, "sgnn_hn", FAIR)
    for seed, recall in ((1, 60.0), (2, 70.0)):
        figures = {"recall@20": recall, "mrr@20": 20.0}
        write_run(place, "sgnn_hn", FAIR, seed, ranks=False, variant="wide", test=figures)
    rows = rows_of(place, "", ["sgnn_hn"])
    assert [*rows] == ["SGNN_HN, wide (We 2020)", "SGNN_HN (We 2020)", "SGNN_HN, paper (We 2020)"]
    assert rows["SGNN_HN, wide (We 2020)"]["Recall@20"] == "65.00 ± 7.07 (2)"
    assert {row["published Recall@20 / MRR@20"] for row in rows.values()} == {"55.67 / 19.45"}
    assert [row["p, Recall@20"] for row in rows.values()][:2] == ["–", "best"]
    page = (place / "README.md").read_text()
    assert "Published figures are those of Pan et al. 2020: SGNN_HN." in page
    assert "A name behind a comma is that of a variant" in page


def test_models_that_were_not_run_end_the_table(tmp_path: Path) -> None:
    place = tmp_path / "yoochoose1_64"
    write_run(place, "zebra", POOR)
    write_run(place, "stamp", FAIR, title=None, cited=None, family=None)  # an old result of a known model
    rows = rows_of(place, "", known=["srgnn", "stamp", "gce_gnn"])
    assert list(rows)[1:] == ["ZEBRA (We 2020)", "GCE-GNN (Wang et al. 2020)", "SR-GNN (Wu et al. 2019)"]
    stamp, zebra, gce, srgnn = rows.values()
    assert (stamp["model"], stamp["family"]) == ("STAMP (Liu et al. 2018)", "sequence")
    assert stamp["published Recall@20 / MRR@20"] == "68.74 / 29.67"
    assert srgnn["published Recall@20 / MRR@20"] == "70.57 / 30.94"
    assert gce["published Recall@20 / MRR@20"] == zebra["published Recall@20 / MRR@20"] == "–"
    assert {gce["Recall@20"], gce["MRR@20"], srgnn["Recall@20"]} == {"not run"}


def test_costs_are_told_where_they_were_measured(tmp_path: Path) -> None:
    place = tmp_path / "shop"
    write_run(place, "old", FAIR)
    write_run(
        place,
        "new",
        GOOD,
        parameters=1_234_567,
        peak_memory_mib=2048,
        encode_microseconds={"1": 60.1, "5": 61.6, "20": 80.0, "50": 120.0},
        rank_microseconds={"p50": 310.4, "p90": 1500.0},
        data_fingerprint="f00d",
        n_items=17376,
    )
    write_run(place, "counted", POOR, epochs=0, wall_seconds=0, family="counted", history={}, recipe=None)
    lent: dict[str, Any] = {"encode_microseconds": {"1": 9.0}, "rank_microseconds": {"p50": 7.0, "p90": 8.0}}
    write_run(place, "lent", FAIR, device="cuda", wall_seconds=30, peak_memory_mib=900, **lent)
    rows = rows_of(place, "Cost")
    told = ["1,234,567", "3", "2", "1.5", "2,048", "60", "62", "80", "120", "310", "1,500"]
    assert list(rows["NEW"].values())[2:] == told
    assert list(rows["OLD"].values())[2:] == ["–", "3", "2", "1.5", *["–"] * 7]
    assert list(rows["COUNTED"].values())[2:6] == ["–", "0", "2", "0.0"]
    assert list(rows["LENT"].values())[3:] == ["3", "GPU", "0.5", "900", *["–"] * 6]
    for other in ("old", "new"):
        edit(place / f"{other}.json", device="cuda")
    alike = list(rows_of(place, "Cost")["LENT"].values())
    assert alike[4:] == ["GPU", "0.5", "900", "9", *["–"] * 3, "7", "8"], (
        "all were trained on one: they compare"
    )
    metrics = rows_of(place, "More metrics")["NEW"]
    assert metrics["Recall@20 without seen items"] == "1.25"
    assert (metrics["Recall@5"], metrics["popularity@20"]) == ("–", "12")
    assert "17,376 items and 6 test cases." in (place / "README.md").read_text()


def random_sessions(seed: int, share_hit: float, sessions: int = 300) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    lengths = np.random.default_rng(99).integers(1, 6, sessions)  # the same sessions for every model
    return [
        [
            int(rank) if hit else 0
            for rank, hit in zip(rng.integers(1, 21, n), rng.random(n) < share_hit, strict=True)
        ]
        for n in lengths
    ]


@pytest.mark.parametrize("metric", ["recall@20", "mrr@20"])
def test_p_is_that_of_a_paired_t_test_over_sessions(metric: str) -> None:
    models = {
        "best": random_sessions(1, 0.62),
        "near": random_sessions(2, 0.57),
        "far": random_sessions(3, 0.2),
    }
    ranks = {
        model: TargetRanks(np.concatenate(of), np.array([len(s) for s in of])) for model, of in models.items()
    }
    comparison = against_best(ranks, metric)
    assert comparison is not None
    assert (comparison.best, comparison.sessions) == ("best", 300)

    def gain(rank: int) -> float:
        return 0.0 if rank == 0 else 1.0 if metric == "recall@20" else 1 / rank

    sums = {name: np.array([sum(map(gain, of)) for of in sessions]) for name, sessions in models.items()}
    for name in ("near", "far"):
        differences = sums[name] - sums["best"]
        t = differences.mean() / (differences.std(ddof=1) / np.sqrt(300))
        expected = 2 * stdtr(299, -abs(t))
        of_two = 1 if name == "near" else 2  # the smaller p is of two comparisons, then one is left
        assert comparison.p[name] == pytest.approx(of_two * expected, rel=1e-9)
        signs = np.random.default_rng(0).choice([-1, 1], (20_000, 300))
        at_random = np.abs((signs * differences).mean(1)) >= abs(differences.mean())
        assert expected == pytest.approx(at_random.mean(), abs=0.015)
    assert comparison.p["far"] < 0.001


def test_the_table_marks_what_cannot_be_told_apart(tmp_path: Path) -> None:
    place = tmp_path / "shop"
    best = random_sessions(1, 0.6)
    write_run(place, "best", best)
    write_run(place, "as_good", best)
    write_run(place, "worse", random_sessions(2, 0.3))
    write_run(place, "untold", best, ranks=False)
    told = {row["model"].split()[0]: row["p, Recall@20"] for row in rows_of(place, "").values()}
    assert told == {"AS_GOOD": "best", "BEST": "≈ 1.00", "WORSE": "<0.001", "UNTOLD": "–"}
    page = (place / "README.md").read_text()
    assert "AS_GOOD by Recall@20, AS_GOOD by MRR@20" in page
    assert "300 test sessions" in page
    assert "Holm-corrected for the 2 comparisons" in page


def test_either_metric_has_its_own_best(tmp_path: Path) -> None:
    place = tmp_path / "shop"
    write_run(place, "wide", [[20, 20], [20], [20, 20, 20]])
    write_run(place, "sharp", [[1, 1], [1], [0, 0, 0]])
    rows = rows_of(place, "")
    assert rows["WIDE (We 2020)"]["p, Recall@20"] == rows["SHARP (We 2020)"]["p, MRR@20"] == "best"
    assert rows["WIDE (We 2020)"]["p, MRR@20"] != "best"


def test_p_has_its_limits_without_variance() -> None:
    assert paired_p(np.array([1.0, 2, 3]), np.array([1.0, 2, 3])) == 1
    assert paired_p(np.array([1.0, 2, 3]), np.array([2.0, 3, 4])) == 0
    assert paired_p(np.array([1.0]), np.array([2.0])) == 1, "one session tells nothing"


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # x 3, 1, 2, 4; 0.04 is not below 0.03 x 2
        ([0.6, 0.5], [1, 1]),
        ([0.02], [0.02]),
    ],
)
def test_holms_correction(p: list[float], corrected: list[float]) -> None:
    np.testing.assert_allclose(holm(np.array(p)), corrected)


def test_sums_are_by_session() -> None:
    ranks = TargetRanks(np.array([1, 2, 0, 0, 4, 20]), np.array([2, 1, 3]))
    np.testing.assert_array_equal(session_sums(ranks, "recall@20"), [2, 0, 2])
    np.testing.assert_allclose(session_sums(ranks, "mrr@20"), [1.5, 0, 0.3])


Harm = Callable[[Path], object]


def other(file: str, array: str, values: npt.ArrayLike, dtype: npt.DTypeLike = np.uint8) -> Harm:
    """Replaces `ranks` or `cases` of a file."""

    def harm(place: Path) -> None:
        with np.load(place / file) as old:
            arrays = {"ranks": old["ranks"], "cases": old["cases"], array: np.array(values, dtype)}
        np.savez(place / file, ranks=arrays["ranks"], cases=arrays["cases"])

    return harm


def edit(file: Path, **changed: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def good_with(**changed: object) -> Harm:
    """Replaces fields of good.json."""
    return lambda place: edit(place / "good.json", **changed)


def cut_short(file: str) -> Harm:
    return lambda place: (place / file).write_bytes((place / file).read_bytes()[:40])


def one_array(file: str) -> Harm:
    """An .npy by the name of an .npz."""

    def harm(place: Path) -> None:
        with (place / file).open("wb") as stream:
            np.save(stream, [1])

    return harm


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (other("fair.npz", "ranks", [1, 2, 2, 0, 0, 10]), "fair.npz: its ranks give recall@20 66.6"),
        (other("fair.npz", "ranks", [2, 0, 2, 0, 0, 10]), "fair.npz: its ranks give mrr@20 18.3"),
        (other("fair.npz", "ranks", [1, 0, 2, 0, 0]), "fair.npz: 5 ranks, 6 cases of 3 sessions"),
        (other("fair.npz", "cases", [2, 1, 2]), "fair.npz: 6 ranks, 5 cases of 3 sessions"),
        (other("good.npz", "cases", [1, 2, 3]), "good.npz: cases differ from those in fair.npz"),
        (other("good.npz", "ranks", [1, 2, 4, 0, 1, 21]), "good.npz: a rank of 21"),
        (other("good.npz", "ranks", [[1, 2, 4], [0, 1, 20]]), "good.npz: ranks is uint8 (2, 3)"),
        (other("good.npz", "ranks", [1, 2, 4, 0, 1, 20], float), "good.npz: ranks is float64"),
        (lambda place: np.savez(place / "good.npz", ranks=[1]), "good.npz: cannot be read"),
        (one_array("good.npz"), "good.npz: cannot be read"),
        (cut_short("good.npz"), "good.npz: cannot be read"),
        (cut_short("good.json"), "good.json: not a result"),
        (good_with(seed="first"), "good.json: seed: "),
        (good_with(family="oracle"), "good.json: family: "),
        (good_with(seed=2), "good.json: is of good, seed 2: its name must be good.seed2.json"),
        (good_with(variant="wide"), "good.json: is of good, wide, seed 1: its name must be good.wide.json"),
        (good_with(dataset="mall"), "good.json: is of data set mall, not shop"),
        (good_with(test={"mrr@20": 1.0}), "good.json: test has no recall@20"),
        (good_with(title=None), "good.json: has no title, cited and family"),
        (good_with(data_fingerprint="beef"), "good.json: data_fingerprint beef, but f00d in fair.json"),
        (lambda place: write_run(place, "one", [[1]]), "one.json: test_cases 1, but 6 in fair.json"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(tmp_path: Path, harm: Harm, message: str) -> None:
    place = tmp_path / "shop"
    write_run(place, "fair", FAIR, data_fingerprint="f00d")
    write_run(place, "good", GOOD, data_fingerprint="f00d")
    write_reports(tmp_path, [])
    before = (place / "README.md").read_bytes()
    harm(place)
    with pytest.raises(ResultError, match=re.escape(message)) as refusal:
        write_reports(tmp_path, [])
    assert str(place) in str(refusal.value)
    assert (place / "README.md").read_bytes() == before


def test_no_results_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for results in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ReportError, match="holds no results"):
            write_reports(results, [])


def full_run(place: Path, model: str, sessions: Sessions, family: str, microseconds: float) -> Path:
    by_length = {"1": {"cases": 4, "recall@20": 50.0, "mrr@20": 9.0}, "2+": {"cases": 2, "recall@20": 40.0}}
    rank = {"p50": microseconds, "p90": 2 * microseconds}
    return write_run(place, model, sessions, family=family, rank_microseconds=rank, test_by_length=by_length)


def test_the_command_writes_once_and_leaves_what_is_up_to_date(tmp_path: Path) -> None:
    place = tmp_path / "shop"
    full_run(place, "best", GOOD, "session graph", 300)
    full_run(place, "second", FAIR, "session graph", 200)
    full_run(place, "spop", POOR, "counted", 10)
    (place / "popularity.json").write_text("{}")
    names = {"README.md", *PICTURES}
    words = ["report", "--results", str(tmp_path), "--json"]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    files = [place / name for name in names]
    assert set(json.loads(first.stdout)["written"]) == set(map(str, files))
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
    again = json.loads(CliRunner().invoke(app, words).stdout)
    assert again == {"written": [], "removed": []}
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files} == before
    page = (place / "README.md").read_text()
    assert all(f"]({name})" in page for name in PICTURES)
    assert "](popularity.svg)" not in page

    (place / "popularity.svg").write_text("<svg/>")
    (place / "spop.json").unlink()
    edit(place / "second.json", rank_microseconds=None)
    changes = json.loads(CliRunner().invoke(app, words).stdout)
    assert set(changes["removed"]) == {str(place / "recall-latency.svg"), str(place / "recall-length.svg")}
    page = (place / "README.md").read_text()
    assert "recall-latency.svg" not in page, "one model has a latency"
    assert "recall-length.svg" not in page, "one family is left"
    assert "](recall-training.svg)" in page
    assert "](popularity.svg)" in page
    assert (place / "popularity.svg").exists()

    (place / "best.npz").write_bytes(b"")
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "best.npz: cannot be read" in refused.output


def test_pictures_name_who_is_in_them(tmp_path: Path) -> None:
    place = tmp_path / "shop"
    full_run(place, "best", GOOD, "session graph", 300)
    full_run(place, "second", FAIR, "session graph", 200)
    full_run(place, "knn", [[1, 0], [2], [0, 1, 10]], "counted", 2000)
    full_run(place, "spop", POOR, "counted", 10)
    edit(full_run(place, "lent", FAIR, "sequence", 100), device="cuda")
    write_reports(tmp_path, [])
    latency, length, training = (
        (place / f"recall-{name}.svg").read_text() for name in ("latency", "length", "training")
    )
    for timed in (latency, training):
        assert "LENT" not in timed, "a GPU's machine has another clock"
    for text in ("BEST", "SECOND", "KNN", "not drawn: SPOP 16.7", "session graph", "counted"):
        assert f"{text}<" in latency, text
    for text in ("BEST, session graph", "KNN, counted", "SPOP, counted", "(4)", "2+"):
        assert f"{text}<" in length, text
    assert "SECOND" not in length, "not the best of its family"


@pytest.mark.parametrize(("fast", "slow", "edge"), [(27, 1_116, "1,500"), (200, 7_500, "10,000")])
def test_no_figure_at_an_axis_is_cut_off(tmp_path: Path, fast: int, slow: int, edge: str) -> None:
    """A tick stands where the axis ends."""
    full_run(tmp_path / "shop", "best", GOOD, "session graph", fast)
    full_run(tmp_path / "shop", "second", FAIR, "sequence", slow)
    write_reports(tmp_path, [])
    picture = (tmp_path / "shop" / "recall-latency.svg").read_text()
    (width,) = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ', picture))
    centred = re.findall(r'text-anchor: middle" x="([\d.]+)".*?rotate\(-0 .*?>(.*?)</text>', picture)
    place = {text: float(x) for x, text in centred}
    assert place[edge] > 0.99 * (FRAME[0] + FRAME[2]) * width
    assert max(x + len(text) * SMALL / 2 for text, x in place.items()) <= width, place


def test_the_title_stands_above_the_legend(tmp_path: Path) -> None:
    """However long both are."""
    shop = tmp_path / "a_shop_whose_name_takes_half_of_the_width_of_a_picture"
    families = ("session graph", "sequence", "counted", "factorisation")  # more than one row has room for
    for number, family in enumerate(families):
        full_run(shop, f"model{number}", GOOD if number else FAIR, family, 27 + number)
    write_reports(tmp_path, [])
    for name in ("recall-latency.svg", "recall-length.svg"):
        picture = (shop / name).read_text()
        texts = re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>([^<]*)</text>', picture)
        (title,) = [float(y) for y, text in texts if text == shop.name]
        legend = [float(y) for y, text in texts if text.endswith(families)]
        assert len(legend) == len(families), texts
        assert FONT_SIZE < title < min(legend) - FONT_SIZE


def test_cells_keep_to_their_columns(tmp_path: Path) -> None:
    assert table(["a", "b"], [["x|y", "1\n2"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |"
    write_run(tmp_path / "shop", "piped", FAIR, title="A|B", command="train | tee log")
    row = rows_of(tmp_path / "shop", "Reproduce")["A\\|B"]
    assert row["command"] == "`train \\| tee log`"


def test_the_committed_leaderboards_are_those_of_the_committed_results(tmp_path: Path) -> None:
    copy = shutil.copytree(DOCS, tmp_path / "results")
    changes = write_reports(copy, known_models())
    assert (changes.written, changes.removed) == ([], []), "run nextclick report --results docs/results"


def test_readme_quotes_what_is_published() -> None:
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)`.*?\|.*?\|.*?\| (.*?) \|.*?\| (.*?) \|$", text, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(known_models())
    for name, *quoted in rows:
        for dataset, told in zip(("yoochoose1_64", "diginetica"), quoted, strict=True):
            assert told == str(PUBLISHED[dataset].get(name, "–")), (name, dataset)
    for dataset in PUBLISHED:
        assert f"(docs/results/{dataset}/README.md)" in text
