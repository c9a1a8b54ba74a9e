"""How well items are answered that a model has never seen, by what is said of them in the catalogue.

    python -m benchmarks.content --work artifacts/benchmarks/content

A tenth of the demo store's items is hidden: their clicks are taken out of the log before a model is trained.
The newest days are then answered as they were clicked, hidden items among them, through the ranker that a
service uses, once without the cold items and once with them. Beside it: the most popular items, once as the
bundle knows them, once counted in the log that nothing was taken out of; what other visitors of these days
clicked beside the newest item; and, with --reference, a model that was trained with all items.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv
from rich.console import Console
from rich.table import Table

from service.catalogue.attributes import Schema
from service.ranking.bundle import Bundle
from service.ranking.cold import ColdItems
from service.ranking.content import Calibration
from service.ranking.ranker import NearestItems
from service.ranking.served import Query, ServedBundle
from training.bundling.content import Attributes
from training.bundling.indexes import WantedIndex
from training.data.dataset import Dataset
from training.data.demo_store import write_demo_store
from training.data.formats import LogFormat
from training.data.heldout import with_newest_day, write_newest_day
from training.data.items import all_items
from training.data.prepare import Rules, prepare
from training.fit import FitOptions, export_checkpoint, fit
from training.learn.hyper import resolve
from training.learn.registry import find_model
from training.report.watch import TerminalWatcher

TOP = 20
AT_ONCE = 256
TEST_DAYS = 5
LOG = LogFormat(session="session_id", item="item_id", time="timestamp")
DAY = 86_400_000  # of the log's milliseconds
SHARES = (1.0, 0.5, 0.25, 0.1)  # of the places, as multiples of the share of the clicks


@dataclass(frozen=True)
class Case:
    """What was clicked so far, and next; `session` numbers the sessions by their end."""

    session: int
    before: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Found:
    """How a way to answer did, in percent."""

    way: str
    hidden_recall: float
    hidden_mrr: float
    known_recall: float
    known_mrr: float
    recall: float
    places: float  # of the 20, that hidden items took


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="niser")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--sessions", type=int, default=60_000)
    parser.add_argument("--hidden", type=float, default=0.1, help="share of the items")
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--checkpoint", type=Path, help="of a training of WORK/without: none is begun")
    parser.add_argument("--reference", action="store_true", help="also train a model with all items")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    work: Path = wanted.work
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "clicks.csv").exists():
        write_demo_store(work / "clicks.csv", sessions=wanted.sessions, days=30, seed=7)
    schema = Schema()
    items = all_items(work / "items.csv", schema)
    chosen = np.random.default_rng(19).choice(list(items), int(wanted.hidden * len(items)), replace=False)
    hidden = sorted(chosen.tolist())
    log = csv.read_csv(work / "clicks.csv")
    clicked = log["item_id"].to_pylist()
    kept = pa.array([item_id not in set_ for set_ in [set(hidden)] for item_id in clicked])
    csv.write_csv(log.filter(kept), work / "without.csv")

    attributes = Attributes(schema.kinds, items)
    bundle = _trained(work, "without", attributes, wanted, console)
    data = Dataset.load(work / "without")
    cases = _cases(work, data, bundle, wanted.cases)
    cut = log["timestamp"].to_numpy().max() - TEST_DAYS * DAY
    times = log["timestamp"].to_numpy()
    counted = Counter(item_id for item_id, time in zip(clicked, times, strict=True) if time < cut)

    content = bundle.content
    assert content is not None
    served = _with_cold(bundle, hidden, attributes, content.calibration)
    known = set(bundle.index_of)
    ways: dict[str, Iterable[Sequence[str]]] = {
        "popularity, as trained": ([*bundle.items[1 : TOP + 1]] for _ in cases),
        "popularity, hidden items counted": ([item for item, _ in counted.most_common(TOP)] for _ in cases),
        "co-clicks of these days": _co_clicked(work, data, cases),
        "model alone": _ranked(ServedBundle.of(bundle), cases),
        "model and content": _ranked(served, cases),
    }
    even = TOP * sum(case.target in set(hidden) for case in cases) / len(cases)
    for share in SHARES:
        calibration = _taking(share * even, bundle, hidden, attributes, cases)
        ways[f"… in {share:g} of an even share"] = _ranked(
            _with_cold(bundle, hidden, attributes, calibration), cases
        )
    if wanted.reference:
        whole = _trained(work, "all", None, wanted, console)
        ways["a model that was trained with all"] = _ranked(ServedBundle.of(whole), cases)
    found = [_measured(way, cases, answers, set(hidden), known) for way, answers in ways.items()]
    n_hidden = sum(case.target in set(hidden) for case in cases)
    console.print(f"{len(cases):,} cases, {n_hidden:,} of them with a hidden item for their target")
    console.print(f"calibration {content.calibration}, measured {dict(content.measured)}")
    _show(found)
    if wanted.json:
        rows = [dataclasses.asdict(each) for each in found]
        measured = dict(content.measured)
        wanted.json.write_text(
            json.dumps({"cases": len(cases), "hidden": n_hidden, "content": measured, "ways": rows}, indent=2)
        )
    return 0


def _trained(
    work: Path, name: str, attributes: Attributes | None, wanted: argparse.Namespace, console: Console
) -> Bundle:
    """A bundle of the log without the hidden items, or of all; a checkpoint that is there is gone on with."""
    log = work / ("clicks.csv" if name == "all" else f"{name}.csv")
    if not (work / name).exists():
        prepare([log], work / name, log_format=LOG, name="demo", rules=Rules(test_days=TEST_DAYS))
    index = WantedIndex("flat")
    if name == "without" and wanted.checkpoint is not None:
        path, _ = export_checkpoint(wanted.checkpoint, Dataset.load(work / name), work, index, attributes)
        return Bundle.load(path, wanted.threads)
    recipe, hyper = resolve(find_model(wanted.model), [f"epochs={wanted.epochs}"])
    options = FitOptions(
        recipe=recipe,
        hyper=hyper,
        seed=1,
        precision="32",
        threads=wanted.threads,
        artifacts=work,
        index=index,
        resume=True,
        checkpoints=work / f"{name}-{wanted.model}",
        attributes=attributes,
        test=False,
    )
    with TerminalWatcher(console) as watcher:
        fitted = fit(wanted.model, Dataset.load(work / name), options, watcher, "benchmarks.content")
    assert fitted.bundle is not None
    return Bundle.load(fitted.bundle, wanted.threads)


def _cases(work: Path, data: Dataset, bundle: Bundle, most: int) -> list[Case]:
    """The newest days as they were clicked; each case has something before it that the bundle knows."""
    write_newest_day([work / "clicks.csv"], LOG, data, work / "day", test_days=TEST_DAYS, gap_minutes=30)
    day = with_newest_day(data, work / "day")
    cases = []
    for session in range(len(day.test)):
        start, end = day.test.offsets[session], day.test.offsets[session + 1]
        names = [day.items[item - 1] for item in day.test.items[start:end].tolist()]
        for place in range(1, len(names)):
            if any(item_id in bundle.index_of for item_id in names[:place]):
                cases.append(Case(session, tuple(names[:place]), names[place]))
    if len(cases) <= most:
        return cases
    chosen = np.random.default_rng(1).choice(len(cases), most, replace=False)
    return [cases[number] for number in np.sort(chosen)]


def _with_cold(
    bundle: Bundle, hidden: Sequence[str], attributes: Attributes, calibration: Calibration
) -> ServedBundle:
    """The bundle, and the hidden items as a service puts them beside it."""
    assert bundle.content is not None
    cold = ColdItems(bundle.manifest.n_items, bundle.content.dim, calibration)
    for item_id in hidden:
        vector = bundle.content.vector(attributes.items[item_id])
        if vector is not None:
            cold.put(item_id, vector)
    ranker = NearestItems(bundle.encoder, bundle.retriever, cold)
    return ServedBundle.of(dataclasses.replace(bundle, ranker=ranker))


def _taking(
    wanted: float, bundle: Bundle, hidden: Sequence[str], attributes: Attributes, cases: Sequence[Case]
) -> Calibration:
    """The calibration under which hidden items take so many places of an answer, on some of the cases."""
    assert bundle.content is not None
    own = bundle.content.calibration
    some = cases[:: max(1, len(cases) // 2000)]

    def places(calibration: Calibration) -> float:
        answers = _ranked(_with_cold(bundle, hidden, attributes, calibration), some)
        taken = [sum(item_id not in bundle.index_of for item_id in each) for each in answers]
        return float(np.mean(taken))

    low, high = own.offset - 1, own.offset + 1
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if places(Calibration(own.scale, middle)) < wanted else (low, middle)
    return Calibration(own.scale, low)


def _ranked(served: ServedBundle, cases: Sequence[Case]) -> list[list[str]]:
    """The 20 best of each case."""
    answers = []
    index_of = served.bundle.index_of
    for start in range(0, len(cases), AT_ONCE):
        queries = [
            Query([index_of[item_id] for item_id in case.before if item_id in index_of], TOP, ())
            for case in cases[start : start + AT_ONCE]
        ]
        queries = [query if query.items else Query([1], TOP, ()) for query in queries]
        answers += [[item_id for item_id, _ in found] for found in served.rank(queries)]
    return answers


def _co_clicked(work: Path, data: Dataset, cases: Sequence[Case]) -> list[list[str]]:
    """What sessions that ended before clicked beside the newest item: all that is known live."""
    day = with_newest_day(data, work / "day")
    beside: dict[str, Counter[str]] = defaultdict(Counter)
    answers, learned = [], 0
    for case in cases:
        while learned < case.session:
            start, end = day.test.offsets[learned], day.test.offsets[learned + 1]
            names = {day.items[item - 1] for item in day.test.items[start:end].tolist()}
            for name in names:
                beside[name].update(names - {name})
            learned += 1
        answers.append([item_id for item_id, _ in beside[case.before[-1]].most_common(TOP)])
    return answers


def _measured(
    way: str, cases: Sequence[Case], answers: Iterable[Sequence[str]], hidden: set[str], known: set[str]
) -> Found:
    ranks: dict[str, list[float]] = {"hidden": [], "known": [], "other": []}
    places = 0
    for case, answer in zip(cases, answers, strict=True):
        places += sum(item_id in hidden for item_id in answer)
        kind = "hidden" if case.target in hidden else "known" if case.target in known else "other"
        ranks[kind].append(1 / (1 + answer.index(case.target)) if case.target in answer else 0.0)

    def percent(values: Sequence[float], *, hits: bool) -> float:
        array = np.array(values)
        return round(100 * float((array > 0).mean() if hits else array.mean()), 2)

    return Found(
        way,
        percent(ranks["hidden"], hits=True),
        percent(ranks["hidden"], hits=False),
        percent(ranks["known"], hits=True),
        percent(ranks["known"], hits=False),
        percent([*ranks["hidden"], *ranks["known"], *ranks["other"]], hits=True),
        round(100 * places / (TOP * len(cases)), 2),
    )


def _show(found: Sequence[Found]) -> None:
    table = Table("answered by", box=None, pad_edge=False)
    for name in ("hidden R@20", "MRR@20", "known R@20", "MRR@20", "all R@20", "places %"):
        table.add_column(name, justify="right")
    for each in found:
        way, *figures = dataclasses.astuple(each)
        table.add_row(way, *(f"{figure:.2f}" for figure in figures))
    Console(highlight=False, width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
