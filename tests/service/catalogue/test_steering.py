"""Steering against an oracle in plain Python, written from docs/placements.md and not from the code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from service.catalogue.steering import (
    Boost,
    Bury,
    Cap,
    Found,
    Pin,
    Pool,
    Promotion,
    Rows,
    Stage,
    Steered,
    Steering,
    relevance_of,
    steer,
)

TAGS = ("new", "own", "sale")
BRANDS = ("a", "b", "c")


@dataclass(frozen=True)
class Item:
    """What the oracle knows of an item."""

    item_id: str
    tags: frozenset[str] = frozenset()
    brands: tuple[str, ...] = ()
    vector: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Wanted:
    """Rules as a shop writes them: by a tag that an item has, or has not."""

    boosts: Sequence[tuple[str, float, float]] = ()
    bury: Sequence[str] = ()
    promotions: Sequence[tuple[str, int]] = ()
    caps: Sequence[int] = ()  # at most so many of a brand
    mmr: float | None = None
    pins: Mapping[int, str] = field(default_factory=dict)


def steered(
    items: Mapping[str, Item],
    found: Sequence[Found],
    wanted: Wanted,
    k: int,
    beside: Sequence[Found] = (),
) -> list[Steered]:
    """What the code makes of it: row n + 1 of the catalogue is the nth item."""
    row_of = {item_id: row for row, item_id in enumerate(items, start=1)}
    known = [Item(""), *items.values()]

    def tagged(tag: str) -> Callable[[Rows], npt.NDArray[np.bool_]]:
        mask = np.array([tag in item.tags for item in known])
        return lambda rows: cast("npt.NDArray[np.bool_]", mask[rows])

    pool = Pool(found, beside)
    rows = np.array([row_of.get(item_id, 0) for item_id in pool.item_ids], dtype=np.int64)
    steering = Steering(
        [Boost(f"boost {tag}", tagged(tag), factor, addition) for tag, factor, addition in wanted.boosts],
        [Bury(f"bury {tag}", tagged(tag)) for tag in wanted.bury],
        [Promotion(f"promote {tag}", tagged(tag), percent) for tag, percent in wanted.promotions],
        [
            Cap(f"cap {at_most}", lambda rows: [known[row].brands for row in rows], at_most)
            for at_most in wanted.caps
        ],
        wanted.mmr,
        [Pin(f"pin {position}", item_id, position) for position, item_id in wanted.pins.items()],
    )
    vectors = np.array([known[row].vector for row in rows], dtype=np.float32).reshape(-1, 4)
    return steer(pool, steering, k, rows, vectors)


def oracle(
    items: Mapping[str, Item],
    found: Sequence[Found],
    wanted: Wanted,
    k: int,
    beside: Sequence[Found] = (),
) -> list[str]:
    """The answer, by the words of the docs."""
    # 1. Relevance, and what boosts make of it; the order is by stage, then by that.
    ranked: list[tuple[bool, int, float, str]] = []
    for number, part in enumerate(found):
        highest = max([score for _, score in part.items], default=0.0)
        for item_id, score in part.items:
            if part.stage == "popular":
                relevance = 0.0
            elif part.is_cosine:
                relevance = (1 + score) / 2
            else:
                relevance = score / highest if highest > 0 else 0.0
            factor, addition = 1.0, 0.0
            for tag, by, plus in wanted.boosts:
                if tag in items[item_id].tags:
                    factor, addition = factor * by, addition + plus
            is_buried = any(tag in items[item_id].tags for tag in wanted.bury)
            ranked.append((is_buried, number, -(relevance * factor + addition), item_id))
    ranked.sort(key=lambda entry: entry[:3])  # stable: ties stay in the order they came
    in_pool = [item_id for *_, item_id in ranked]
    all_allowed = [*in_pool, *(item_id for part in beside for item_id, _ in part.items)]

    # 2. What is pinned, and allowed, has its place, and counts.
    pins = {p: item_id for p, item_id in wanted.pins.items() if p <= k and item_id in all_allowed}
    pinned = list(pins.values())
    room = k - len(pins)

    def over_cap(item_id: str, answered: Sequence[str]) -> bool:
        return any(
            sum(brand in items[other].brands for other in answered) >= at_most
            for at_most in wanted.caps
            for brand in items[item_id].brands
        )

    # 3. A walk from the best on, that leaves out what is over a cap, and takes it at last.
    chosen: list[str] = []
    late: list[str] = []
    left = [entry for entry in ranked if entry[3] not in pinned]
    while left and len(chosen) < room:
        entry = left[0]
        if wanted.mmr is not None:
            same = [other for other in left if other[:2] == entry[:2]]
            entry = max(same, key=lambda other: _mmr(items, other, [*chosen, *pinned], wanted.mmr or 0))
        left.remove(entry)
        (late if over_cap(entry[3], [*chosen, *pinned]) else chosen).append(entry[3])
    chosen += late[: room - len(chosen)]

    # 4. Promotions, one after the other.
    for number, (tag, percent) in enumerate(wanted.promotions):
        need = ceil(k * percent / 100)
        coming = [i for i in all_allowed if tag in items[i].tags and i not in (*chosen, *pinned)]
        places, taken = [], []
        while sum(tag in items[i].tags for i in (*chosen, *pinned)) < need and coming:
            if len(chosen) < room:
                place = len(chosen)
            else:
                promised = [
                    before
                    for before, share in wanted.promotions[:number]
                    if sum(before in items[i].tags for i in (*chosen, *pinned)) <= ceil(k * share / 100)
                ]
                can_go = [
                    place
                    for place, i in enumerate(chosen)
                    if tag not in items[i].tags and not any(before in items[i].tags for before in promised)
                ]
                if not can_go:
                    break
                place = can_go[-1]
                del chosen[place]
            best = next((i for i in coming if not over_cap(i, [*chosen, *pinned])), coming[0])
            coming.remove(best)
            chosen.insert(place, best)
            places.append(place)
            taken.append(best)
        for place, item_id in zip(sorted(places), taken, strict=True):
            chosen[place] = item_id

    # 5. The pins, last.
    for position in sorted(pins):
        chosen.insert(position - 1, pins[position])
    return chosen


def _mmr(
    items: Mapping[str, Item], entry: tuple[bool, int, float, str], answered: Sequence[str], weight: float
) -> float:
    vector = items[entry[3]].vector
    likeness = [sum(a * b for a, b in zip(vector, items[i].vector, strict=True)) for i in answered]
    return weight * -entry[2] - (1 - weight) * max([0.0, *likeness])


# All numbers but shares are sums of powers of two: floats add and multiply them without a rest.
halves = st.sampled_from([-0.5, 0.5])
vectors = st.one_of(
    st.tuples(halves, halves, halves, halves),
    st.sampled_from([(1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)]),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Item], list[Found], Wanted, int, list[Found]]:
    numbers = draw(st.permutations(range(draw(st.integers(0, 24)))))
    items = {
        f"i{number}": Item(
            f"i{number}",
            draw(st.frozensets(st.sampled_from(TAGS))),
            tuple(draw(st.sets(st.sampled_from(BRANDS), max_size=2))),
            draw(vectors),
        )
        for number in numbers
    }
    ids = list(items)
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), min_size=4, max_size=4)))
    parts = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    names = draw(st.permutations(["neighbours", "model", "trending", "popular"]))
    found = []
    for name, part in zip(names, parts[:4], strict=True):
        scores = sorted((draw(st.integers(0, 64)) / 64 for _ in part), reverse=True)
        if name == "popular":
            scores = [0.0] * len(part)
        stage = cast("Stage", name)
        is_cosine = name == "model" and draw(st.booleans())
        found.append(Found(stage, list(zip(part, scores, strict=True)), is_cosine))
    beside = [Found("popular", [(item_id, 0.0) for item_id in parts[4]])]
    tags = st.sampled_from(TAGS)
    k = draw(st.integers(1, 12))
    pins = draw(
        st.dictionaries(st.integers(1, 14), st.sampled_from([*ids, "unknown"]), max_size=4).filter(
            lambda pins: len(set(pins.values())) == len(pins)
        )
    )
    wanted = Wanted(
        draw(
            st.lists(
                st.tuples(tags, st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.sampled_from([-0.5, 0.0, 0.25])),
                max_size=3,
            )
        ),
        draw(st.lists(tags, max_size=2)),
        draw(st.lists(st.tuples(tags, st.integers(1, 100)), max_size=3)),
        draw(st.lists(st.integers(1, 4), max_size=2)),
        draw(st.sampled_from([None, None, 0.0, 0.25, 0.5, 1.0])),
        pins,
    )
    return items, found, wanted, k, beside


# A failing case is small anyhow; to shrink one takes minutes.
@settings(max_examples=300, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(cases())
def test_the_answer_is_the_oracles(
    case: tuple[dict[str, Item], list[Found], Wanted, int, list[Found]],
) -> None:
    items, found, wanted, k, beside = case
    answer = [entry.item_id for entry in steered(items, found, wanted, k, beside)]
    assert answer == oracle(items, found, wanted, k, beside)
    assert len(set(answer)) == len(answer)
    assert len(answer) >= min(k, sum(len(part.items) for part in found)), "never fewer, when k are allowed"
    allowed = {item_id for part in (*found, *beside) for item_id, _ in part.items}
    pins = {p: item_id for p, item_id in wanted.pins.items() if p <= k and item_id in allowed}
    assert len(answer) < k or all(answer[p - 1] == item_id for p, item_id in pins.items())


PLAIN = {f"i{n}": Item(f"i{n}") for n in range(1, 11)}
MODEL = Found("model", [(f"i{n}", 1 - n / 10) for n in range(1, 11)], is_cosine=True)


def tagged(*tags: str) -> frozenset[str]:
    return frozenset(tags)


def ids(answer: Sequence[Steered]) -> list[str]:
    return [entry.item_id for entry in answer]


def why(answer: Sequence[Steered]) -> dict[str, tuple[str, ...]]:
    return {entry.item_id: entry.moved_by for entry in answer if entry.moved_by}


def test_without_rules_the_answer_is_the_first_k() -> None:
    assert steered(PLAIN, [MODEL], Wanted(), 3) == [
        Steered("i1", 0.9, "model", ()),
        Steered("i2", 0.8, "model", ()),
        Steered("i3", 0.7, "model", ()),
    ]


def test_a_boost_multiplies_and_adds_and_names_itself() -> None:
    items = PLAIN | {"i3": Item("i3", tagged("sale")), "i9": Item("i9", tagged("new"))}
    # Relevance: i1 0.95, i2 0.9, i3 0.85, ..., i9 0.55.
    answer = steered(items, [MODEL], Wanted([("sale", 1.1, 0.0), ("new", 1.0, 0.37)]), 3)
    assert ids(answer) == ["i1", "i3", "i9"], "0.95, 0.935, 0.92, before 0.9"
    assert why(answer) == {"i3": ("boost sale",), "i9": ("boost new",)}
    assert answer[2].score == pytest.approx(0.1), "its stage's own score"


def test_scores_that_a_bundle_adds_to_repeats_may_leave_the_range_of_cosines() -> None:
    """Above 1 they keep their order; below -1 a boost still raises nothing."""
    found = Found("model", [("again", 1.5), ("once", 0.5), ("not again", -3.0)], is_cosine=True)
    assert relevance_of(found).tolist() == [1.25, 0.75, 0.0]


def test_a_boost_moves_within_a_stage_only() -> None:
    items = PLAIN | {"t": Item("t", tagged("sale"))}
    found = [Found("model", [("i1", 0.1)], is_cosine=True), Found("trending", [("i2", 8.0), ("t", 4.0)])]
    assert ids(steered(items, found, Wanted([("sale", 100.0, 0.0)]), 3)) == ["i1", "t", "i2"]


def test_what_is_buried_comes_last_and_only_where_nothing_else_is() -> None:
    items = PLAIN | {"i1": Item("i1", tagged("sale")), "i2": Item("i2", tagged("sale"))}
    assert ids(steered(items, [MODEL], Wanted(bury=["sale"]), 3)) == ["i3", "i4", "i5"]
    answer = steered(items, [MODEL], Wanted(bury=["sale"]), 10)
    assert ids(answer)[-2:] == ["i1", "i2"]
    assert why(answer) == {"i1": ("bury sale",), "i2": ("bury sale",)}


def test_a_cap_skips_and_fills_up_where_there_is_nothing_else() -> None:
    items = {f"i{n}": Item(f"i{n}", brands=("a",) if n <= 8 else ("b",)) for n in range(1, 11)}
    assert ids(steered(items, [MODEL], Wanted(caps=[2]), 4)) == ["i1", "i2", "i9", "i10"]
    answer = steered(items, [MODEL], Wanted(caps=[2]), 6)
    assert ids(answer) == ["i1", "i2", "i9", "i10", "i3", "i4"]
    assert why(answer) == {"i3": ("cap 2",), "i4": ("cap 2",)}


def test_a_promotion_takes_the_places_of_the_last() -> None:
    items = PLAIN | {name: Item(name, tagged("own")) for name in ("i2", "i8", "i9")}
    answer = steered(items, [MODEL], Wanted(promotions=[("own", 50)]), 5)
    assert ids(answer) == ["i1", "i2", "i3", "i8", "i9"]
    assert why(answer) == {"i8": ("promote own",), "i9": ("promote own",)}


def test_a_promotion_looks_beside_the_pool_when_that_has_too_few() -> None:
    items = PLAIN | {"x": Item("x", tagged("own"))}
    beside = [Found("popular", [("x", 0.0)])]
    assert ids(steered(items, [MODEL], Wanted(promotions=[("own", 20)]), 5, beside))[-1] == "x"
    assert "x" not in ids(steered(items, [MODEL], Wanted(), 5, beside)), "else it stays there"


def test_a_second_promotion_leaves_the_first_its_share() -> None:
    items = PLAIN | {name: Item(name, tagged("own")) for name in ("i1", "i2")}
    items |= {name: Item(name, tagged("sale")) for name in ("i8", "i9", "i10")}
    wanted = Wanted(promotions=[("own", 50), ("sale", 100)])
    assert ids(steered(items, [MODEL], wanted, 4)) == ["i1", "i2", "i8", "i9"]


def test_pins_stand_where_they_were_put_and_no_other_item_changes_its_order() -> None:
    answer = steered(PLAIN, [MODEL], Wanted(pins={1: "i7", 3: "i2", 9: "i5"}), 5)
    assert ids(answer) == ["i7", "i1", "i2", "i3", "i4"]
    assert why(answer) == {"i7": ("pin 1",), "i2": ("pin 3",)}


def test_diversity_prefers_what_is_unlike() -> None:
    same, other = (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)
    items = {f"i{n}": Item(f"i{n}", vector=other if n == 9 else same) for n in range(1, 11)}
    assert ids(steered(items, [MODEL], Wanted(mmr=0.5), 3)) == ["i1", "i9", "i2"]
    assert ids(steered(items, [MODEL], Wanted(mmr=1.0), 3)) == ["i1", "i2", "i3"]
