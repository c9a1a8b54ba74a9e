"""Whole answers in a placement against the oracle of steering, on every kind of index."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from service.catalogue.attributes import Values
from service.catalogue.placements import Placement, prepare
from service.catalogue.rules import every, read
from service.catalogue.steering import Found
from service.recommender import Options, placed
from tests.service.catalogue.catalogues import KINDS, holds, rules, values
from tests.service.catalogue.test_answers import COLD, N_ITEMS, World, assigned
from tests.service.catalogue.test_answers import few as few
from tests.service.catalogue.test_answers import kind as kind
from tests.service.catalogue.test_steering import Item, Wanted, oracle

some_rules = st.lists(rules(), max_size=2)
item_ids = st.sampled_from(["i1", "i2", "i4", "i7", "i300", "i399", *COLD, "nowhere"])
worlds = st.fixed_dictionaries(
    {
        "values": st.lists(values, min_size=1, max_size=5),
        "seed": st.integers(0, 1000),
        "changed": st.integers(1, N_ITEMS),
        "hidden": st.frozensets(st.sampled_from(["i1", "i2", "i7", "new0"])),
        "session": st.lists(st.sampled_from(["i1", "i2", "i4", "i7", "i11", *COLD]), max_size=4),
        "exclude": st.lists(st.sampled_from(["i1", "i2", "i5", "new1"]), max_size=3),
    }
)
placements = st.fixed_dictionaries(
    {
        "k": st.sampled_from([1, 5, 20, 60]),
        "filter": st.none() | rules(),
        "boosts": st.lists(
            st.fixed_dictionaries(
                {
                    "rule": rules(),
                    "factor": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
                    "addition": st.sampled_from([-0.5, 0.0, 0.25]),
                }
            ),
            max_size=3,
        ),
        "bury": some_rules.map(lambda trees: [{"rule": tree} for tree in trees]),
        "promotions": st.lists(
            st.fixed_dictionaries({"rule": rules(), "percent": st.integers(1, 100)}), max_size=2
        ),
        "caps": st.lists(
            st.fixed_dictionaries({"attribute": st.just("categories"), "at_most": st.integers(1, 5)}),
            max_size=1,
        ),
        "mmr": st.none() | st.sampled_from([0.0, 0.3, 0.7, 1.0]),
        "pins": st.lists(
            st.fixed_dictionaries({"item_id": item_ids, "position": st.integers(1, 25)}),
            max_size=3,
            unique_by=(lambda pin: pin["item_id"], lambda pin: pin["position"]),
        ),
    }
)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-sq", "ivf-pq", "vmis_knn"], indirect=True)
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(world=worlds, placement=placements)
def test_the_answer_is_the_oracles(kind: Any, world: dict[str, Any], placement: dict[str, Any]) -> None:
    if placement["k"] > 20:
        placement["mmr"] = None  # of so many the oracle would take minutes
    asyncio.run(compare(World(kind), world, placement))


async def compare(world: World, drawn: dict[str, Any], placement: dict[str, Any]) -> None:
    await world.trending.refresh()
    different: list[Values] = [{**each, **_once(each)} for each in drawn["values"]]
    everything = [*COLD, *world.bundle.items[1:]]
    world.change(assigned(different, drawn["seed"], everything[-drawn["changed"] :]))
    world.hidden = drawn["hidden"]
    world.switch(world.bundle)
    session, exclude, tree = drawn["session"], drawn["exclude"], placement["filter"]
    clicked = [world.items.get(each) for each in dict.fromkeys(session)]
    clicked += [world.items.get(session[-1])] if session else []

    prepared = prepare("home", Placement.model_validate(placement), KINDS)
    options = placed(Options(0, exclude), prepared)
    answer = await world.recommender.recommend_items(session, options)
    if not prepared.steers:
        return
    # The pool is an answer without steering, which is right by the tests of those.
    size = max(200, 5 * options.k)
    plain = Options(size, exclude, filter=options.filter)
    pool = await world.recommender.recommend_items(session, plain)
    found = [
        Found(
            stage, [(each.item_id, each.score) for each in group], stage == "model" and world.bundle.is_cosine
        )
        for stage, group in groupby(pool.told, lambda each: each.stage)
    ]
    present = {item_id for item_id, _ in pool.items}
    pinned = [
        pin["item_id"]
        for pin in placement["pins"]
        if pin["item_id"] not in present
        and pin["item_id"] not in (*exclude, *world.hidden)
        and world.items.get(pin["item_id"], {}).get("available") is not False
        and (tree is None or holds(tree, world.items.get(pin["item_id"], {}), clicked))
    ]
    beside = [Found("pinned", [(item_id, 0.0) for item_id in pinned])]
    present.update(pinned)
    for promotion in placement["promotions"]:
        of_pool = [item_id for item_id, _ in pool.items]
        matching = sum(holds(promotion["rule"], world.items.get(each, {}), clicked) for each in of_pool)
        missing = -(-options.k * promotion["percent"] // 100) - matching
        if missing > 0:
            more = await _more(world, session, [*exclude, *present], [tree, promotion["rule"]], missing)
            beside.append(Found("popular", [(item_id, 0.0) for item_id in more]))
            present.update(more)

    vector_of: dict[str, tuple[float, ...]] = {}
    no_vector: tuple[float, ...] = ()
    if world.bundle.is_cosine:
        vectors = world.bundle.retriever.vectors()
        index_of = world.bundle.index_of
        vector_of = {
            each: tuple(vectors[index_of[each] - 1].tolist()) for each in present if each in index_of
        }
        no_vector = (0.0,) * vectors.shape[1]

    def item(item_id: str) -> Item:
        known = world.items.get(item_id, {})
        of_rules: dict[str, dict[str, Any]] = {
            f"{part} {number}": each["rule"]
            for part in ("boosts", "bury", "promotions")
            for number, each in enumerate(placement[part])
        }
        tags = frozenset(name for name, rule in of_rules.items() if holds(rule, known, clicked))
        categories: Any = known.get("categories", [])
        return Item(item_id, tags, tuple(dict.fromkeys(categories)), vector_of.get(item_id, no_vector))

    wanted = Wanted(
        [(f"boosts {n}", each["factor"], each["addition"]) for n, each in enumerate(placement["boosts"])],
        [f"bury {n}" for n, _ in enumerate(placement["bury"])],
        [(f"promotions {n}", each["percent"]) for n, each in enumerate(placement["promotions"])],
        [cap["at_most"] for cap in placement["caps"]],
        # A bundle of neighbours has no vectors: there is nothing to be unlike in.
        placement["mmr"] if world.bundle.is_cosine else None,
        pins={pin["position"]: pin["item_id"] for pin in placement["pins"]},
    )
    expected = oracle({each: item(each) for each in present}, found, wanted, options.k, beside)
    answered = [item_id for item_id, _ in answer.items]
    assert answered == expected
    assert len(answered) >= min(options.k, len(pool.items)), "never fewer than k when k are allowed"


def _once(item: Values) -> Mapping[str, Any]:
    """Each category once, as items are stored."""
    categories: Any = item.get("categories")
    return {"categories": list(dict.fromkeys(categories))} if categories is not None else {}


async def _more(
    world: World, session: Sequence[str], exclude: Sequence[str], trees: Sequence[Any], k: int
) -> list[str]:
    """The best of the bundle's own items that all of the rules let through."""
    rule = every([read(tree, KINDS) for tree in trees if tree is not None])
    own = Placement(stages=("model", "popular"))
    options = Options(k, exclude, filter=rule, placement=prepare("own", own, KINDS))
    return [item_id for item_id, _ in (await world.recommender.recommend_items(session, options)).items]
