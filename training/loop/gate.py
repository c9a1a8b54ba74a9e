"""What a new bundle must hold to before it is published: every check tells what it measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import NormalDist
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from service.live.deployment import Deployment
from service.live.follower import load_bundle
from service.ranking.bundle import Bundle, BundleError
from service.ranking.ranker import NearestItems
from service.ranking.served import Query, Scored, ServedBundle
from training.bundling.blend import TrainedBlend, check_sum, members_told
from training.bundling.export import PARITY_SESSIONS, ExportError, check_parity, recent_sessions
from training.bundling.provenance import BLEND
from training.data.dataset import Dataset
from training.learn.checkpoint import load_trained
from training.loop.retrain import GateConfig
from training.measure.evaluate import TOP
from training.measure.latency import rank_microseconds
from training.measure.metrics import Ranks

RESAMPLES = 2000
RESAMPLES_AT_ONCE = 100
FEW = 2000  # sessions, up to which it is remembered how often each is drawn: 32 MB
SEED = 0
QUERIES_AT_ONCE = 100
MEGABYTE = 1e6

FEWEST = 50  # sessions: among fewer perhaps none differs, and their bootstrap is sure that none would
EVERYTHING = 100.0  # points
POWER = 0.9  # with which an equal bundle should pass

Verdict = Literal["not worse", "worse", "cannot tell"]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Check:
    """One check; a bundle is published only if all have passed."""

    name: str
    passed: bool
    measured: float | str | None  # None: not applicable
    limit: float | str | None
    detail: str = ""
    verdict: Verdict | None = None  # of a comparison of how well two recommend

    @property
    def summary(self) -> str:
        """The check in one line."""
        measured, limit = (
            f"{each:.4g}" if isinstance(each, float) else each for each in (self.measured, self.limit)
        )
        return f"{self.name}: {measured}, limit {limit}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion on the same cases, in points."""

    champion: float
    challenger: float
    low: float  # of the two-sided interval
    high: float
    lower: float  # one-sided: the true difference is above it with the same confidence
    upper: float  # likewise: below it
    error: float  # the standard error

    @property
    def points(self) -> float:
        """The difference itself."""
        return self.challenger - self.champion


@dataclass(frozen=True)
class Measured:
    """A bundle on the held-out cases: percent for the metrics, 0..1 for the shares."""

    version: str
    recall: float
    mrr: float
    item_coverage: float  # of the day's clicks, those on items it knows
    catalogue_coverage: float  # of its items, those it ever answered


@dataclass(frozen=True)
class CaseRanks:
    """The rank of every held-out case's target, by either bundle, in the sessions' order."""

    cases: Counts  # (sessions,) of each session
    challenger: Ranks
    champion: Ranks | None  # None: nothing is live yet
    anchor: Ranks | None = None  # of the version that nights together are held to
    fair: bool = True  # False: the others may have been trained on these sessions


@dataclass(frozen=True)
class Lead:
    """By how many points a bundle is ahead of VMIS-kNN that was counted on the same clicks."""

    recall: float
    mrr: float

    @classmethod
    def of(cls, measured: Mapping[str, float], counted: Mapping[str, float]) -> Self:
        """The difference of two evaluations."""
        names = (f"recall@{TOP}", f"mrr@{TOP}")
        return cls(*(measured[name] - counted[name] for name in names))


def judge(
    gate: GateConfig,
    artifacts: Path,
    measured: Measured,
    ranks: CaseRanks,
    leads: tuple[Lead | None, Lead | None],
    data: Dataset,
    day: Dataset,
    checkpoint_of: Callable[[str], Path],
    deployment: Deployment,
) -> list[Check]:
    """Every check of the bundle `measured.version`; only the first when it cannot even be loaded.

    `leads` are its own and that of the version that nights together are held to, over VMIS-kNN on the night
    of each; `data` is what it was trained on, `day` the held-out sessions, `checkpoint_of` says where the
    weights of an encoder lie, by model.
    """
    try:
        bundle = load_bundle(artifacts, measured.version)
    except BundleError as error:
        return [Check("loads", False, "no", "yes", str(error))]
    return [
        Check("loads", True, "yes", "yes"),
        check_checkpoint(bundle, checkpoint_of, data),
        *check_ranks(gate, ranks),
        *check_drift(gate, ranks, *leads),
        check_latency(gate, bundle, data),
        at_least("item coverage", measured.item_coverage, gate.min_item_coverage),
        at_least("catalogue coverage", measured.catalogue_coverage, gate.min_catalogue_coverage),
        check_size(gate, bundle.path),
        check_replay(bundle, day, deployment, gate.replay_sessions),
    ]


def check_checkpoint(bundle: Bundle, checkpoint_of: Callable[[str], Path], data: Dataset) -> Check:
    """Whether an encoder answers as the model in its checkpoint does; a blend, as those of its members do."""
    if not isinstance(bundle.ranker, NearestItems):
        return Check("parity", True, None, "vectors and top 20", "not applicable: neighbours are counted")
    manifest, sample = bundle.manifest, recent_sessions(data.train_all)
    try:
        if manifest.model == BLEND:
            members = [
                (load_trained(checkpoint_of(model), data)[0], weight)
                for model, weight in members_told(manifest.hyperparameters)
            ]
            check_sum(TrainedBlend(tuple(members)), bundle, sample[:PARITY_SESSIONS])
        else:
            model, _ = load_trained(checkpoint_of(manifest.model), data)
            check_parity(model, bundle, sample)
    except ExportError as error:
        return Check("parity", False, "differs", "vectors and top 20", str(error))
    return Check("parity", True, "equal", "vectors and top 20")


def check_ranks(gate: GateConfig, ranks: CaseRanks) -> Iterator[Check]:
    """Whether Recall@20 and MRR@20 are those of the champion, or not worse by more than the margin."""
    if ranks.champion is None:
        return
    for metric, margin in (("recall@20", gate.margin_recall), ("mrr@20", gate.margin_mrr)):
        yield _not_worse(gate, metric, ("champion", ranks.champion), ranks, margin)


def check_drift(
    gate: GateConfig, ranks: CaseRanks, lead: Lead | None, before: Lead | None
) -> Iterator[Check]:
    """Whether many nights together have lost no more than `max_drift`, by two references that do not move.

    The version of long ago is compared on the same cases: it has aged since, so this alone would let through
    what fresh clicks make up for. VMIS-kNN is as fresh as the challenger: its lead may not shrink either.
    """
    if ranks.anchor is not None and ranks.fair:
        for metric in ("recall@20", "mrr@20"):
            old = (f"champion of {gate.drift_days} days ago", ranks.anchor)
            yield _not_worse(gate, metric, old, ranks, gate.max_drift)
    if lead is not None and before is not None:
        for metric, now, then in (
            ("recall@20", lead.recall, before.recall),
            ("mrr@20", lead.mrr, before.mrr),
        ):
            detail = f"{now:+.2f} points ahead, {then:+.2f} then"
            passed = now - then >= -gate.max_drift
            name = f"{metric}, lead over VMIS-kNN"
            yield Check(name, passed, now - then, -gate.max_drift, detail, "not worse" if passed else "worse")


def _not_worse(
    gate: GateConfig, metric: str, other: tuple[str, Ranks], ranks: CaseRanks, margin: float
) -> Check:
    """A test of non-inferiority: with confidence, no more than the margin is lost.

    Where that is not shown, the other tail says whether a loss is: else nobody can tell.
    """
    name, other_ranks = other
    label = metric if name == "champion" else f"{metric}, {name}"
    if not ranks.fair or len(ranks.cases) < FEWEST:
        sessions = len(ranks.cases) if ranks.fair else 0
        detail = f"cannot tell: {sessions} sessions that the live bundle cannot have been trained on"
        return Check(label, margin >= EVERYTHING, -EVERYTHING, -margin, detail, "cannot tell")
    before, challenger = (gains(each, metric) for each in (other_ranks, ranks.challenger))
    found = paired_difference(before, challenger, ranks.cases, gate.confidence)
    passed = found.lower >= -margin
    told: Verdict = "not worse" if passed else "worse" if found.upper < 0 else "cannot tell"
    detail = (
        f"{told}: challenger {found.challenger:.2f}, {name} {found.champion:.2f}: "
        f"{found.points:+.2f} points, {gate.confidence:.0%} interval {found.low:+.2f} to {found.high:+.2f}, "
        f"above {found.lower:+.2f}, {len(ranks.cases):,} sessions"
    )
    if told == "cannot tell":
        needed = sessions_needed(found.error, len(ranks.cases), margin, gate.confidence)
        detail += (
            f"; of equal bundles 9 of 10 pass with {needed:,}" if needed else "; a margin of 0 is never shown"
        )
    return Check(label, passed, found.lower, -margin, detail, told)


def sessions_needed(error: float, sessions: int, margin: float, confidence: float) -> int:
    """With how many sessions an equal bundle passes as often as `POWER`; 0: with no number of them."""
    if not margin:
        return 0
    errors = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(POWER)
    return math.ceil(sessions * (errors * error / margin) ** 2)


def verdict(checks: Sequence[Check]) -> str:
    """Of all checks together; "refused": it fails another one than those of how well it recommends."""
    failed = [check.verdict for check in checks if not check.passed]
    if not failed:
        return "passed"
    if None in failed:
        return "refused"
    return "worse" if "worse" in failed else "cannot tell"


def gains(ranks: Ranks, metric: str) -> Floats:
    """(cases,) what each case adds to the metric: a hit (`recall@20`) or the reciprocal rank (`mrr@20`)."""
    hits = ranks <= TOP
    return np.where(hits, 1 / ranks if metric == "mrr@20" else 1.0, 0.0)


def paired_difference(champion: Floats, challenger: Floats, cases: Counts, confidence: float) -> Difference:
    """Bootstrap of the difference of two means over the same cases, in points.

    Sessions are drawn, not cases: those of one session are not independent. `cases` (sessions,) says how many
    consecutive ones each session has.
    """
    session_of = np.repeat(np.arange(len(cases)), cases)
    difference = np.bincount(session_of, challenger - champion, len(cases))
    of_sessions = np.stack([difference, cases], axis=1)  # (sessions, 2)
    summed = _few_drawn(of_sessions) if len(cases) <= FEW else _many_drawn(of_sessions)  # (RESAMPLES, 2)
    drawn_points = 100 * summed[:, 0] / summed[:, 1]
    tail = 1 - confidence
    ends = np.quantile(drawn_points, (tail / 2, 1 - tail / 2, tail, 1 - tail))
    low, high, lower, upper = map(float, ends)
    means = (100 * float(champion.mean()), 100 * float(challenger.mean()))
    return Difference(*means, low, high, lower, upper, float(drawn_points.std()))


def _few_drawn(of_sessions: Floats) -> Floats:
    return times_drawn(len(of_sessions)) @ of_sessions


def _many_drawn(of_sessions: Floats) -> Floats:
    """Sessions that differ alike are drawn together, by their number."""
    kinds, count = np.unique(of_sessions, axis=0, return_counts=True)
    random = np.random.default_rng(SEED)
    shares = count / len(of_sessions)
    return np.concatenate(
        [
            random.multinomial(len(of_sessions), shares, RESAMPLES_AT_ONCE) @ kinds
            for _ in range(RESAMPLES // RESAMPLES_AT_ONCE)
        ]
    )


@lru_cache(maxsize=1)
def times_drawn(sessions: int) -> Floats:
    """(RESAMPLES, sessions) how often each session is in each resample: the same for every comparison."""
    drawn = np.random.default_rng(SEED).integers(0, sessions, (RESAMPLES, sessions))
    return np.stack([np.bincount(row, minlength=sessions) for row in drawn]).astype(np.float64)


def check_latency(gate: GateConfig, bundle: Bundle, data: Dataset) -> Check:
    """Whether nine of ten answers to one session, on one thread, are made in time."""
    milliseconds = rank_microseconds(bundle, data.test)["p90"] / 1000
    return Check("answer ms, p90", milliseconds <= gate.max_answer_ms, milliseconds, gate.max_answer_ms)


def at_least(name: str, measured: float, limit: float) -> Check:
    """Whether a share is reached."""
    return Check(name, measured >= limit, measured, limit)


def check_size(gate: GateConfig, path: Path) -> Check:
    """Whether the bundle's files fit."""
    megabytes = sum(file.stat().st_size for file in path.iterdir()) / MEGABYTE
    return Check("bundle MB", megabytes <= gate.max_bundle_mb, megabytes, gate.max_bundle_mb)


def check_replay(bundle: Bundle, day: Dataset, deployment: Deployment, n_sessions: int) -> Check:
    """Answer the newest sessions as the service does, and look at each answer."""
    hidden = frozenset(deployment.hidden)
    served = ServedBundle.of(bundle, hidden)
    queries = list(islice(_queries(served, day, deployment.exclude_seen), n_sessions))
    parts = [queries[i : i + QUERIES_AT_ONCE] for i in range(0, len(queries), QUERIES_AT_ONCE)]
    problems = [
        problem
        for part in parts
        for query, answer in zip(part, served.rank(part), strict=True)
        if (problem := answer_problem(served, query, answer, hidden))
    ]
    if not queries:
        return Check("replay", False, "nothing to replay", "no bad answer", "no session has a known item")
    measured = f"{len(problems)} bad of {len(queries)} answers"
    return Check("replay", not problems, measured, "no bad answer", problems[0] if problems else "")


def answer_problem(
    served: ServedBundle, query: Query, answer: Sequence[Scored], hidden: frozenset[str]
) -> str | None:
    """What is wrong with an answer, or None."""
    item_ids = [item_id for item_id, _ in answer]
    scores = np.array([score for _, score in answer])
    session = f"to {[served.bundle.items[item] for item in query.items]}"
    if len(item_ids) > query.k:
        return f"{len(item_ids)} items instead of {query.k} {session}"
    if len(item_ids) < query.k and isinstance(served.ranker, NearestItems):  # neighbours may be few
        there_are = len(np.setdiff1d(served.visible, list(query.excluded)))
        if len(item_ids) < min(query.k, there_are):
            return f"{len(item_ids)} items, and there are {there_are} {session}"
    if len(set(item_ids)) < len(item_ids):
        return f"an item twice {session}: {item_ids}"
    if not np.isfinite(scores).all():
        return f"a score that is not finite {session}: {scores.tolist()}"
    if (np.diff(scores) > 0).any():
        return f"scores that rise {session}: {scores.tolist()}"
    if shown := hidden.intersection(item_ids):
        return f"hidden items {session}: {sorted(shown)}"
    return None


def _queries(served: ServedBundle, day: Dataset, exclude_seen: bool) -> Iterator[Query]:
    """The newest sessions first, those without any known item left out: they are not for the served."""
    index_of = served.bundle.index_of
    offsets = day.test.offsets
    for start, end in zip(offsets[-2::-1].tolist(), offsets[:0:-1].tolist(), strict=True):
        item_ids = [day.items[item - 1] for item in day.test.items[start:end].tolist()]
        known = [index_of[item_id] for item_id in item_ids if item_id in index_of]
        if known:
            yield Query(known[-served.ranker.max_length :], TOP, set(known) if exclude_seen else ())
