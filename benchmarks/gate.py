"""How often the nightly gate is right, by size of the shop, on the ranks of real models.

    python -m benchmarks.gate

Nights are drawn from the ranks of GCE-GNN's three seeds on diginetica's test sessions (`docs/results`): one
is live, another is tonight's. They are equal, and differ on 7 cases of 100. A worse one has some of its hits
taken away. A night's sessions are those of its shop's newest days, drawn anew, as many as the gate pools.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from training.loop.gate import CaseRanks, Lead, check_drift, check_ranks, verdict
from training.loop.retrain import GateConfig, PrepareConfig
from training.measure.metrics import MISSED, Ranks, ranking_metrics
from training.measure.results import read_ranks

SIZES = (50, 100, 200, 500, 2000)  # test sessions a day
SEEDS = ("gce_gnn", "gce_gnn.seed2", "gce_gnn.seed3")
REFERENCE = "vmis_knn"
OLD = (PrepareConfig(test_sessions=0), GateConfig(margin_recall=1.0, margin_mrr=1.0))
NEW = (PrepareConfig(), GateConfig())
NIGHTS = 20

Counts = npt.NDArray[np.int64]
Random = np.random.Generator


@dataclass(frozen=True)
class Models:
    """The ranks of models on the same cases."""

    ranks: dict[str, Ranks]
    cases: Counts  # (sessions,)

    @classmethod
    def read(cls, results: Path) -> Models:
        """What `train --results` has left there."""
        found = {name: read_ranks(results / f"{name}.json") for name in (*SEEDS, REFERENCE)}
        ranks = {
            name: np.where(of.ranks > 0, of.ranks, MISSED) for name, of in found.items() if of is not None
        }
        cases = next(of.cases for of in found.values() if of is not None)
        return cls(ranks, cases)

    def night(self, sessions: int, random: Random) -> tuple[dict[str, Ranks], Counts]:
        """As many sessions, and every model's ranks on them."""
        chosen = np.sort(random.choice(len(self.cases), sessions, replace=False))
        starts = np.cumsum(self.cases) - self.cases
        lengths = self.cases[chosen]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = np.repeat(starts[chosen], lengths) + within
        return {name: ranks[rows] for name, ranks in self.ranks.items()}, lengths


def worse(ranks: Ranks, share: float, luck: npt.NDArray[np.float64]) -> Ranks:
    """With a share of the hits taken away: those of the unluckiest cases, whoever hit them."""
    return np.where(luck < share, MISSED, ranks)


def pooled(a_day: int, prepare: PrepareConfig) -> int:
    """The days that hold enough sessions."""
    days = max(prepare.test_days, math.ceil(prepare.test_sessions / a_day))
    return int(min(days, max(prepare.max_test_days, prepare.test_days)))


def one_night(models: Models, sessions: int, gate: GateConfig, lost: float, random: Random) -> str:
    """The verdict on a challenger that is worse by so many points."""
    ranks, cases = models.night(sessions, random)
    champion, challenger = random.permutation(list(SEEDS))[:2]
    poorer = worse(
        ranks[challenger], lost / recall(models.ranks[challenger]), random.random(len(ranks[challenger]))
    )
    return verdict(list(check_ranks(gate, CaseRanks(cases, poorer, ranks[champion]))))


def lineage(
    models: Models, sessions: int, gate: GateConfig, a_night: float, random: Random
) -> tuple[float, int]:
    """Points lost after nights whose challengers are each worse than what is live, and how many passed.

    What was live first stands for the champion of long ago; it does not age here. VMIS-kNN is as good every
    night.
    """
    lost, passed = 0.0, 0
    live = first = SEEDS[0]
    first_lead: Lead | None = None
    for night in range(NIGHTS):
        ranks, cases = models.night(sessions, random)
        name = SEEDS[(SEEDS.index(live) + 1) % len(SEEDS)]
        luck, of_all = random.random(len(ranks[name])), recall(models.ranks[name])
        challenger = worse(ranks[name], (lost + a_night) / of_all, luck)
        champion = worse(ranks[live], lost / of_all, luck)
        lead = Lead.of(ranking_metrics(challenger), ranking_metrics(ranks[REFERENCE]))
        # While the first is live it is compared as the champion, and as nothing else.
        anchor, before = (ranks[first], first_lead) if passed else (None, None)
        judged = CaseRanks(cases, challenger, champion, anchor)
        checks = [*check_ranks(gate, judged), *check_drift(gate, judged, lead, before)]
        if night == 0:
            first_lead = Lead.of(ranking_metrics(champion), ranking_metrics(ranks[REFERENCE]))
        if verdict(checks) == "passed":
            live, lost, passed = name, lost + a_night, passed + 1
    return lost, passed


def recall(ranks: Ranks) -> float:
    return ranking_metrics(ranks)["recall@20"]


def share(counted: Counter[str], *names: str) -> str:
    return f"{100 * sum(counted[name] for name in names) / counted.total():.1f} %"


def single_nights(
    models: Models, nights: int, wanted: tuple[PrepareConfig, GateConfig], title: str, sizes: Sequence[int]
) -> Table:
    """A row for each size of shop."""
    table = Table(title=title)
    for heading in (
        *("a day", "days", "sessions", "equal: passes", "worse", "cannot tell"),
        *("3 points worse: refused", "as worse", "as cannot tell"),
    ):
        table.add_column(heading, justify="right")
    prepare, gate = wanted
    for a_day in sizes:
        days = pooled(a_day, prepare)
        random = np.random.default_rng(a_day)
        equal, poorer = (
            Counter(one_night(models, days * a_day, gate, lost, random) for _ in range(nights))
            for lost in (0, 3)
        )
        table.add_row(
            *(f"{number:,}" for number in (a_day, days, days * a_day)),
            *(share(equal, name) for name in ("passed", "worse", "cannot tell")),
            *(share(poorer, "worse", "cannot tell"), share(poorer, "worse"), share(poorer, "cannot tell")),
        )
    return table


def many_nights(models: Models, lineages: int, sizes: Sequence[int]) -> Table:
    """A row for each size of shop and each loss a night."""
    table = Table(title=f"{NIGHTS} nights, each challenger worse than what is live")
    for heading in ("a day", "points a night", "guard", "nights that passed", "points lost", "at most"):
        table.add_column(heading, justify="right")
    prepare, gate = NEW
    unguarded = gate.model_copy(update={"max_drift": 100.0})
    for a_day, a_night, guarded in itertools.product(sizes, (0.5, 1.0), (False, True)):
        random = np.random.default_rng(a_day)
        ran = [
            lineage(models, a_day * pooled(a_day, prepare), gate if guarded else unguarded, a_night, random)
            for _ in range(lineages)
        ]
        lost, passed = (np.array(column) for column in zip(*ran, strict=True))
        table.add_row(
            *(f"{a_day:,}", f"{a_night:g}", "yes" if guarded else "no"),
            *(f"{passed.mean():.1f}", f"{lost.mean():.1f}", f"{lost.max():.1f}"),
        )
    return table


def main(words: Sequence[str] | None = None) -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("docs/results/diginetica"))
    parser.add_argument("--nights", type=int, default=500, help="of each kind and size")
    parser.add_argument("--lineages", type=int, default=40, help="of twenty nights, of each kind and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="test sessions a day")
    arguments = parser.parse_args(words)
    sizes = arguments.sizes
    models, console = Models.read(arguments.results), Console()
    for wanted, title in (
        (OLD, "One night, margins of 1 point (as it was)"),
        (NEW, "Days pooled (as it is)"),
    ):
        console.print(single_nights(models, arguments.nights, wanted, title, sizes))
    console.print(many_nights(models, arguments.lineages, [size for size in sizes if size <= 500]))


if __name__ == "__main__":
    main()
