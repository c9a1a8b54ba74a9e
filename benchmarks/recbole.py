"""Training beside RecBole 1.2.1: examples per second, and validation MRR@20 in the same budget.

    python -m benchmarks.recbole --data artifacts/data/yoochoose1_64 --models gru narm stamp \\
        --python RECBOLE_VENV/bin/python --quality --budget-minutes 30 --picture recbole.svg

One example is one predicted target; `benchmarks/README.md` says what is held equal. Each figure is written to
`--output` as soon as it is there, and what stands there under the same conditions is not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks import recbole_ours
from models.interactions import interactions
from models.sessions import Sessions
from service.live.deployment import replace_file
from training.bundling.provenance import source_commit
from training.data.dataset import Dataset
from training.learn.batches import Examples
from training.learn.registry import model_names
from training.learn.train import default_precision, keep_freed_memory
from training.report.pictures import style, svg

DIM = 100
BATCH_SIZE = 512
# In the throughput runs ours trains as RecBole does: one next click, full softmax, Adam.
SAME_RECIPE: dict[str, Any] = {"batch_size": BATCH_SIZE, "loss": "ce", "horizon": 1, "optimizer": "adam"}
PAIRS_BATCH_SIZE = 2048  # RecBole's default; pairs of a session and an item, with a negative each there
WARM_UP_STEPS = 5
SEED = 1
WORKER = Path(__file__).with_name("recbole_worker.py")

Part = Literal["throughput", "quality"]
Side = Literal["recbole", "ours"]
Figures = dict[str, Any]  # as the output file holds them

SIDES: dict[Side, tuple[str, str]] = {
    "ours": ("#0072b2", "Nextclick"),
    "recbole": ("#d55e00", "RecBole 1.2.1"),
}


@dataclass(frozen=True)
class Pair:
    """One model there and here, made the same size; what is not said is each side's default."""

    recbole: str
    settings: dict[str, int | str | list[int]]  # of RecBole
    ours: tuple[str, ...] = (f"dim={DIM}",)
    length: int = 50  # newest clicks of a session that RecBole reads
    interactions: bool = False  # a session is a RecBole user: pairs of it and an item, no sequences

    @property
    def batch_size(self) -> int:
        """RecBole's, and ours in the throughput runs."""
        return PAIRS_BATCH_SIZE if self.interactions else BATCH_SIZE

    @property
    def same_recipe(self) -> dict[str, Any]:
        """What our recipe takes from RecBole in the throughput runs."""
        return {"batch_size": PAIRS_BATCH_SIZE} if self.interactions else SAME_RECIPE


PAIRS = {
    "gru": Pair("GRU4Rec", {"embedding_size": DIM, "hidden_size": DIM, "num_layers": 1}),
    "narm": Pair(
        "NARM",
        {"embedding_size": DIM, "hidden_size": DIM, "n_layers": 1},
        (f"dim={DIM}", f"hidden={DIM}"),
    ),
    "stamp": Pair("STAMP", {"embedding_size": DIM}),
    "sasrec": Pair(
        "SASRec", {"hidden_size": DIM, "inner_size": DIM, "n_layers": 2, "n_heads": 1, "hidden_act": "relu"}
    ),
    # RecBole's filters have the heights 1..length; the paper's have 1..5.
    "caser": Pair("Caser", {"embedding_size": DIM, "nh": 16, "nv": 4}, length=5),
    "bert4rec": Pair("BERT4Rec", {"hidden_size": DIM, "inner_size": 4 * DIM, "n_layers": 2, "n_heads": 2}),
    "srgnn": Pair("SRGNN", {"embedding_size": DIM, "step": 1}),
    "bprmf": Pair("BPR", {"embedding_size": DIM}, interactions=True),
    "ngcf": Pair(
        "NGCF",
        {"embedding_size": 64, "hidden_size_list": [64, 64, 64]},
        ("dim=64", "layers=3"),
        interactions=True,
    ),
    "lightgcn": Pair(
        "LightGCN", {"embedding_size": 64, "n_layers": 3}, ("dim=64", "layers=3"), interactions=True
    ),
}


@dataclass(frozen=True)
class RecBole:
    """RecBole in an environment and a process of its own, with the sessions written down for it."""

    python: Path
    work: Path
    threads: int
    train: Sessions
    validation: Sessions

    def ask(self, pair: Pair, request: dict[str, Any]) -> Figures:
        """What the worker answers to a request for throughput or quality."""
        folder = self._interactions() if pair.interactions else self._sessions(pair.length)
        common = {
            "model": pair.recbole,
            "settings": pair.settings,
            "folder": str(folder),
            "length": pair.length,
            "batch_size": pair.batch_size,
            "interactions": pair.interactions,
            "threads": self.threads,
            "seed": SEED,
        }
        worker = subprocess.run(
            [self.python, "-P", "-W", "ignore::FutureWarning", WORKER.resolve()],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
            input=json.dumps(common | request),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        answer: Figures = json.loads(worker.stdout.splitlines()[-1])
        if pair.interactions and "history" in answer:
            answer["history"] = recbole_ours.judge_item_vectors(answer["history"], self.validation)
        return answer

    def _interactions(self) -> Path:
        """The training pairs, a session being a user; the other parts list the catalogue, for its size."""
        folder = (self.work / "interactions").resolve()
        if folder.exists():
            return folder
        catalogue = [(0, item) for item in range(1, self.train.n_items + 1)]
        pairs = zip(*(part.tolist() for part in interactions(self.train)), strict=True)
        unfinished = folder.with_suffix(".unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        parts: dict[str, Iterable[tuple[int, int]]] = {"train": pairs, "valid": catalogue, "test": catalogue}
        for part, rows in parts.items():
            with (unfinished / f"{folder.name}.{part}.inter").open("w") as file:
                print("user_id:token\titem_id:token", file=file)
                for session, item in rows:
                    print(session, item, sep="\t", file=file)
        return unfinished.rename(folder)

    def _sessions(self, length: int) -> Path:
        """RecBole's benchmark files: in each line a prefix, its newest `length` clicks, and its target.

        The test part lists the catalogue, so that RecBole's item table is as large as ours in any sample.
        """
        folder = (self.work / f"newest{length}").resolve()
        if folder.exists():
            return folder
        n_items = self.train.n_items
        catalogue = np.resize(np.arange(1, n_items + 1), (-(-n_items // length), length))
        parts = {
            "train": _prefixes(self.train, length),
            "valid": _prefixes(self.validation, length),
            "test": ((row.tolist(), 1) for row in catalogue),
        }
        unfinished = folder.with_suffix(".unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        for part, rows in parts.items():
            with (unfinished / f"{folder.name}.{part}.inter").open("w") as file:
                print("user_id:token\titem_id_list:token_seq\titem_id:token", file=file)
                for clicks, target in rows:
                    print("anonymous", " ".join(map(str, clicks)), target, sep="\t", file=file)
        return unfinished.rename(folder)


def _prefixes(sessions: Sessions, length: int) -> Iterator[tuple[list[int], int]]:
    examples = Examples.of(sessions, "prefixes", length)
    clicks = sessions.items.tolist()
    for start, end in zip(examples.start, examples.start + examples.length, strict=True):
        yield clicks[start:end], clicks[end]


@dataclass(frozen=True)
class Results:
    """The output file: figures by model, part and side, each with the conditions it was measured under."""

    file: Path
    again: str | None = None  # "recbole", "ours" or "both": never taken from the file

    def get(
        self, model: str, part: Part, side: Side, conditions: Figures, measure: Callable[[], Figures]
    ) -> Figures:
        """What the file holds under these conditions, else what is measured now."""
        held = self.read()
        sides = held.setdefault(model, {}).setdefault(part, {})
        if self.again in (side, "both") or sides.get(side, {}).get("conditions") != conditions:
            print(f"{model}: {part}, {side}", file=sys.stderr, flush=True)
            sides[side] = {"commit": source_commit(), "conditions": conditions, **measure()}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.file, json.dumps(held, indent=2).encode() + b"\n")
        return sides[side]

    def read(self) -> dict[str, dict[Part, dict[Side, Figures]]]:
        """Everything measured so far."""
        held: dict[str, dict[Part, dict[Side, Figures]]] = {}
        if self.file.exists():
            held = json.loads(self.file.read_text())
        return held


def compare(
    name: str,
    recbole: RecBole,
    results: Results,
    *,
    conditions: Figures,
    clock: dict[str, Any],
    budget_seconds: float,
) -> None:
    """Measure both sides' throughput, and their quality unless the budget is 0."""
    pair, train, known = PAIRS[name], recbole.train, name in model_names()
    conditions = {**conditions, "settings": pair.settings, "ours": list(pair.ours), "length": pair.length}
    timed = conditions | clock
    results.get(name, "throughput", "recbole", timed, lambda: recbole.ask(pair, clock))
    if known:
        results.get(
            name,
            "throughput",
            "ours",
            timed | pair.same_recipe,
            lambda: recbole_ours.throughput(
                recbole_ours.build(name, pair.ours, train, SEED, **pair.same_recipe), train, SEED, **clock
            ),
        )
    if not budget_seconds:
        return
    budget = {"budget_seconds": budget_seconds}
    results.get(name, "quality", "recbole", conditions | budget, lambda: recbole.ask(pair, budget))
    if known:
        model = recbole_ours.build(name, pair.ours, train, SEED)
        recipe = dataclasses.asdict(model.recipe)
        results.get(
            name,
            "quality",
            "ours",
            conditions | budget | {"recipe": recipe},
            lambda: {"history": recbole_ours.quality(model, train, recbole.validation, SEED, budget_seconds)},
        )


def best(quality: Figures) -> dict[str, float]:
    """When validation MRR@20 was highest, and how high."""
    looks: list[dict[str, float]] = quality["history"]
    return max(looks, key=lambda look: look["mrr@20"])


def table(results: Results) -> str:
    """Everything measured so far, in Markdown."""
    held = results.read()
    lines = [
        "| model | RecBole, examples/s | ours | ratio | RecBole's best Recall@20 / MRR@20 | after"
        " | ours is as good after | ratio | ours, in the budget |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join(lines + [_row(name, held[name]) for name in PAIRS if name in held])


def _row(name: str, parts: dict[Part, dict[Side, Figures]]) -> str:
    speed = {side: figures["examples_per_second"] for side, figures in parts.get("throughput", {}).items()}
    quality = parts.get("quality", {})
    looks = {side: best(figures) for side, figures in quality.items()}
    goal = looks["recbole"]["mrr@20"] if looks else math.nan
    seconds = {
        side: look["seconds"]
        for side, figures in quality.items()
        for look in reversed(figures["history"])  # the first that is as good stays
        if look["mrr@20"] >= goal
    }
    cells = [
        _shown("{:,.0f}", speed.get("recbole")),
        _shown("{:,.0f}", speed.get("ours")),
        _shown("{:.1f}x", speed["ours"] / speed["recbole"] if len(speed) == 2 else None),
        _metrics(looks.get("recbole")),
        _shown("{:,.0f} s", seconds.get("recbole")),
        _shown("{:,.0f} s", seconds.get("ours")),
        _shown("{:.1f}x", seconds["recbole"] / seconds["ours"] if len(seconds) == 2 else None),
        _metrics(looks.get("ours")),
    ]
    return f"| {' | '.join([PAIRS[name].recbole, *cells])} |"


def _shown(pattern: str, value: float | None) -> str:
    return "–" if value is None else pattern.format(value)


def _metrics(look: dict[str, float] | None) -> str:
    return "–" if look is None else f"{look['recall@20']:.2f} / {look['mrr@20']:.2f}"


def picture(results: Results) -> bytes:
    """Validation MRR@20 over seconds of training, a panel for each model; an SVG."""
    held = {name: parts["quality"] for name, parts in results.read().items() if "quality" in parts}
    rows = math.ceil(len(held) / 3)
    columns = math.ceil(len(held) / rows)
    with style():
        figure = Figure(figsize=(3 * columns, 2.6 * rows), dpi=72, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
        for name, axes in zip((name for name in PAIRS if name in held), panels, strict=False):
            for side, (colour, title) in SIDES.items():
                looks = held[name].get(side, {"history": []})["history"]
                seconds, mrr = ([look[key] for look in looks] for key in ("seconds", "mrr@20"))
                axes.plot(seconds, mrr, "o-", color=colour, markersize=3, linewidth=1.2, label=title)
            axes.set_title(PAIRS[name].recbole, loc="left", fontweight="bold")
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: f"{second:g}"))
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in [*panels]:
            axes.set_visible(False)
        handles, titles = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, titles, frameon=False, loc="outside upper right", ncols=2)
        figure.supxlabel("seconds of training", fontsize="medium")
        figure.supylabel("validation MRR@20, %", fontsize="medium")
        return svg(figure)


def main() -> int:
    """Measure what the output file lacks; print all it holds then."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--python", type=Path, required=True, help="of RecBole's virtual environment")
    parser.add_argument(
        "--work", type=Path, help="keep RecBole's files there; default: a temporary directory"
    )
    parser.add_argument("--output", type=Path, default=Path("artifacts/benchmarks/recbole.json"))
    parser.add_argument("--steps", type=int, default=40, help="timed after the warm-up")
    parser.add_argument("--seconds", type=float, default=120, help="fewer steps if they would take longer")
    parser.add_argument("--quality", action="store_true", help="also what each learns in the same time")
    parser.add_argument("--budget-minutes", type=float, default=30, help="of each side, with --quality")
    parser.add_argument("--picture", type=Path, help="draw what each had learned when, as an SVG")
    parser.add_argument("--sessions", type=int, help="only so many training sessions: to try it out")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", nargs="?", const="both", choices=("recbole", "ours", "both"))
    options = parser.parse_args()
    if options.picture and not options.quality:
        parser.error("--picture draws what --quality measures")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data = Dataset.load(options.data)
    train, validation = data.train, data.validation
    if options.sessions is not None:
        train, validation = train[-options.sessions :], validation[: options.sessions // 10]
    conditions = {
        "data": data.info.name,
        "fingerprint": data.info.fingerprint,
        "sessions": len(train),
        "threads": options.threads,
        "precision": default_precision(),
    }
    results = Results(options.output, options.again)
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)) / f"{data.info.fingerprint[:12]}-{len(train)}"
        recbole = RecBole(options.python.absolute(), work, options.threads, train, validation)
        for name in options.models:
            compare(
                name,
                recbole,
                results,
                conditions=conditions,
                clock={"warm_up": WARM_UP_STEPS, "steps": options.steps, "seconds": options.seconds},
                budget_seconds=60 * options.budget_minutes if options.quality else 0,
            )
    if options.picture:
        replace_file(options.picture, picture(results))
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
