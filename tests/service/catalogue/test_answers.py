"""Whole answers against plain Python: every stage and kind of index, while everything changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.catalogue.attributes import Values
from service.catalogue.filters import Filters
from service.catalogue.rules import read
from service.live.deployment import Deployment
from service.live.follower import DeploymentFollower, snapshot_of
from service.live.quality import QualityMonitor
from service.live.trending import Trending
from service.process.settings import Settings
from service.ranking import retriever as retrieval
from service.ranking.bundle import Bundle
from service.ranking.ranker import NearestItems
from service.ranking.retriever import Retriever
from service.recommender import Options, Recommendation, Recommender
from service.state.store import SessionStore
from tests.service.bundles import Shop
from tests.service.catalogue.catalogues import KINDS, holds, rules, values
from tests.service.ranking import test_neighbours as neighbours

N_ITEMS = 400
COLD = [f"new{number}" for number in range(6)]  # in no bundle; new5 has too few sessions
TRENDING = [
    ("new0", 9.0),
    ("i3", 8.5),
    ("new1", 8.0),
    ("i50", 7.0),
    ("new2", 5.0),
    ("new3", 4.0),
    ("new5", 1.0),
]
CO_CLICKS = [("new1", 5.0), ("i7", 4.0), ("new5", 3.0), ("i2", 2.0)]
FEW, FEW_DECODED = 40, 20  # allowed items: so few are looked at one by one


@dataclass(frozen=True)
class Kind:
    """Two versions of a bundle, and how the second one's items differ."""

    name: str
    bundles: tuple[Bundle, Bundle]
    is_exact: bool = True


class FakeStore:
    """What the recommender asks of Redis, for sessions that are not stored."""

    async def trending(self, limit: int) -> list[tuple[str, float]]:
        return TRENDING[:limit]

    async def co_clicks(self, item_id: str, limit: int) -> list[tuple[str, float]]:
        return CO_CLICKS[:limit]


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """So few that both ways to search come up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "FEW", FEW)
        patch.setattr(retrieval, "FEW_SHARE", N_ITEMS // FEW)
        patch.setattr(retrieval, "FEW_DECODED", FEW_DECODED)
        yield


@pytest.fixture(scope="module", params=["flat", "hnsw", "ivf-sq", "ivf-pq", "vmis_knn"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    path, name = tmp_path_factory.mktemp("artifacts"), request.param
    if name == "vmis_knn":
        versions = [
            neighbours.write(path, neighbours.counted(history, 6, 4), name, f"v{number}")
            for number, history in enumerate((neighbours.HISTORY, neighbours.HISTORY[::-1]))
        ]
        first, second = map(Bundle.load, versions)
        return Kind(name, (first, second))
    shops = Shop.make(N_ITEMS, seed=1), Shop.make(N_ITEMS - 30, seed=2)
    loaded = [Bundle.load(shop.write(path, f"v{n}", index=name)) for n, shop in enumerate(shops)]
    if name.startswith("ivf"):
        loaded = [replace(each, ranker=searching(each, 8)) for each in loaded]  # of ten lists
    return Kind(name, (loaded[0], loaded[1]), is_exact=name == "flat")


def searching(bundle: Bundle, breadth: int) -> NearestItems:
    return NearestItems(bundle.encoder, bundle.retriever.searching(breadth))


class World:
    """What is served, in plain Python and in ours."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.items: dict[str, Values] = {}
        self.hidden: frozenset[str] = frozenset()
        self.filters = Filters(KINDS)
        self.follower = DeploymentFollower(kind.bundles[0].path, poll_seconds=1, filters=self.filters)
        store = cast("SessionStore", FakeStore())
        self.trending = Trending(store)
        self.recommender = Recommender(
            store, self.follower, self.trending, QualityMonitor(store, 0), Settings()
        )
        self.switch(kind.bundles[0])

    def switch(self, bundle: Bundle) -> None:
        self.bundle = bundle
        new = self.filters.aligning([bundle])
        for each in new:
            each.fill()
        deployment = Deployment(champion="it", hidden=tuple(sorted(self.hidden)))
        self.follower.current = snapshot_of(deployment, {"it": bundle}, None)
        self.filters.keep(list(self.follower.current.bundles.values()), new)

    def change(self, items: Sequence[tuple[str, Values | None]]) -> None:
        self.filters.apply(items)
        for item_id, item in items:
            self.items.pop(item_id, None)
            if item is not None:
                self.items[item_id] = item

    def allows(self, item_id: str, tree: dict[str, Any] | None, session: Sequence[str]) -> bool:
        item = self.items.get(item_id, {})
        clicked = [self.items.get(each) for each in dict.fromkeys(session)]
        newest = [self.items.get(session[-1])] if session else []
        if item_id in self.hidden or item.get("available") is False:
            return False
        if item_id in COLD and dict(TRENDING).get(item_id, 0) < 3:
            return False
        return tree is None or holds(tree, item, [*clicked, *newest])

    def ranked(self, known: Sequence[str]) -> list[tuple[str, float]]:
        """All that the bundle's model makes of known items, best first."""
        session = [self.bundle.index_of[item_id] for item_id in known]
        if self.kind.name == "vmis_knn":
            ((scores, items),) = self.bundle.ranker.rank([session], [neighbours.N_ITEMS], [()])
        else:
            (query,) = self.bundle.encoder.encode([session])
            every = self.bundle.retriever.vectors() @ query
            items = np.argsort(-every) + 1
            scores = every[items - 1]
        return [(self.bundle.items[i], s) for i, s in zip(items.tolist(), scores.tolist(), strict=True)]

    def expected(
        self, session: Sequence[str], k: int, tree: dict[str, Any] | None, exclude: Sequence[str]
    ) -> list[tuple[str, str, float]]:
        """Stage, item and score of the right answer."""
        found: dict[str, tuple[str, str, float]] = {}

        def add(stage: str, scored: Sequence[tuple[str, float]]) -> None:
            for item_id, score in scored:
                if item_id not in found and item_id not in exclude and self.allows(item_id, tree, session):
                    found[item_id] = (stage, item_id, score)

        known = [item_id for item_id in session if item_id in self.bundle.index_of]
        if session and session[-1] not in self.bundle.index_of:
            add("neighbours", CO_CLICKS)
        if known:
            add("model", self.ranked(known[-self.bundle.ranker.max_length :]))
        add("trending", TRENDING)
        add("popular", [(item_id, 0.0) for item_id in self.bundle.items[1:]])
        return list(found.values())[:k]


def assigned(drawn: list[Values], seed: int, item_ids: Sequence[str]) -> list[tuple[str, Values | None]]:
    """One of the drawn values to each item, or none: an item that the catalogue does not know."""
    choice = np.random.default_rng(seed).integers(-1, len(drawn), len(item_ids)).tolist()
    return [(item_id, drawn[c] if c >= 0 else None) for item_id, c in zip(item_ids, choice, strict=True)]


rounds = st.lists(
    st.fixed_dictionaries(
        {
            "tree": st.none() | rules(),
            "again": st.booleans(),  # the rule of the round before
            "values": st.lists(values, min_size=1, max_size=5),
            "seed": st.integers(0, 1000),
            "changed": st.integers(1, N_ITEMS),
            "hidden": st.frozensets(st.sampled_from(["i1", "i2", "i3", "i7", "i8", "i9", "new0"])),
            "version": st.integers(0, 1),
            "session": st.lists(st.sampled_from(["i1", "i2", "i4", "i7", "i11", *COLD]), max_size=4),
            "k": st.sampled_from([1, 5, 20, 100]),
            "exclude": st.lists(st.sampled_from(["i1", "i2", "i5", "new1"]), max_size=3),
        }
    ),
    min_size=1,
    max_size=3,
)


def test_answers_are_the_right_ones_whatever_changes(kind: Kind) -> None:
    recalls: list[float] = []

    # An average over examples: always over the same ones, that it may not depend on which were drawn.
    @settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(rounds)
    def every_answer_is_right(rounds: list[dict[str, Any]]) -> None:
        world, tree = World(kind), None

        async def ask_all() -> None:
            await world.trending.refresh()
            for each in rounds:
                await ask(each)

        async def ask(each: dict[str, Any]) -> None:
            nonlocal tree
            tree = tree if each["again"] else each["tree"]
            changed = [*COLD, *world.bundle.items[1:]][-each["changed"] :]
            world.change(assigned(each["values"], each["seed"], changed))
            if (each["hidden"], each["version"]) != (world.hidden, kind.bundles.index(world.bundle)):
                world.hidden = each["hidden"]
                world.switch(kind.bundles[each["version"]])
            rule = None if tree is None else read(tree, KINDS)
            options = Options(each["k"], each["exclude"], filter=rule)
            answer = await world.recommender.recommend_items(each["session"], options)
            expected = world.expected(each["session"], each["k"], tree, each["exclude"])
            check(world, answer, expected, recalls)
            check_others(world, tree, each["k"])

        asyncio.run(ask_all())

    every_answer_is_right()
    assert kind.is_exact or len(recalls) > 20
    assert np.mean(recalls or [1.0]) >= 0.99


def check(
    world: World, answer: Recommendation, expected: list[tuple[str, str, float]], recalls: list[float]
) -> None:
    """The same stages with the same items; the model's may differ where its search is not exact."""
    found = [item_id for item_id, _ in answer.items]
    assert len(found) == len(expected), "never fewer than k when k are allowed"
    assert len(set(found)) == len(found)
    assert answer.stage == (expected[0][0] if expected else "popular")
    of_model = [(item_id, score) for stage, item_id, score in expected if stage == "model"]
    start = next((place for place, each in enumerate(expected) if each[0] == "model"), 0)
    end = start + len(of_model)
    if world.kind.is_exact or not of_model:
        assert found[:start] + found[end:] == [each[1] for each in expected[:start] + expected[end:]]
        scores = [score for _, score in answer.items[start:end]]
        np.testing.assert_allclose(scores, [score for _, score in of_model], atol=2e-5)
    else:
        recalls.append(len(set(found[start:end]) & {item_id for item_id, _ in of_model}) / len(of_model))
    right = dict(world.ranked(answer.encoded)) if answer.encoded else {}
    for item_id, score in answer.items[start:end]:
        assert abs(right[item_id] - score) < 2e-5


def check_others(world: World, tree: dict[str, Any] | None, k: int) -> None:
    rule = None if tree is None else read(tree, KINDS)
    found, _ = world.recommender.trending(Options(k, filter=rule))
    assert found == [each for each in TRENDING if world.allows(each[0], tree, ())][:k]
    asked = "i4"
    _, similar, _ = world.recommender.similar(asked, Options(k, filter=rule))
    allowed = {
        item_id
        for item_id in world.bundle.items[1:]
        if item_id != asked and world.allows(item_id, tree, (asked,))
    }
    assert {item_id for item_id, _ in similar} <= allowed
    if world.kind.name != "vmis_knn":
        assert len(similar) == min(k, len(allowed))


def test_both_ways_to_search_come_up() -> None:
    """Else the test above would prove less than it says."""
    vectors = Shop.make(N_ITEMS).vectors
    for name, most in (("flat", FEW), ("hnsw", FEW), ("ivf-sq", FEW_DECODED)):
        built = Retriever.build(vectors, name)  # type: ignore[arg-type]
        mask = np.zeros(N_ITEMS + 1, dtype=bool)
        mask[1 : most + 1] = True
        assert built.only(mask)._few
        mask[most + 1] = True
        assert not built.only(mask)._few
