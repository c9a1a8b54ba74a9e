"""The demo store: a generated shop and its click log, with the habits that a model can learn from a real one.

Items have a popularity (Zipf within their category) that drifts from day to day; some appear late. A visitor
compares similar items (of the same shelf, and rather of the same line, brand and price), goes on to what
complements them, returns to what was seen before, or looks around. All sessions take their next step at once,
so that the log takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from training.data.demo_pictures import picture

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

OPENING = 1_756_684_800  # 2025-09-01, in epoch seconds
DAY = 86_400
SHELF = 125  # items of one category
MAX_LENGTH = 40
OUT_OF_STOCK = 25  # one in so many items is
# How much likelier an item is to be compared with another, or to go with it, in powers of e.
SAME_LINE, SAME_BRAND, TWICE_THE_PRICE = 1.5, 1.0, -1.5
HABITS = {"similar": 0.46, "complement": 0.18, "seen before": 0.14, "same shelf": 0.14, "anything": 0.08}

# Category, SKU prefix, noun, typical price, and the categories that go with it.
CATEGORIES = (
    ("Tents", "TNT", "Tent", 260, ("Sleeping bags", "Sleeping mats", "Lanterns")),
    ("Sleeping bags", "SLB", "Sleeping Bag", 150, ("Sleeping mats", "Tents")),
    ("Sleeping mats", "MAT", "Sleeping Mat", 80, ("Sleeping bags", "Tents")),
    ("Lanterns", "LAN", "Lantern", 35, ("Tents", "Headlamps")),
    ("Stoves", "STV", "Stove", 70, ("Cookware", "Bottles")),
    ("Cookware", "CKW", "Cook Set", 45, ("Stoves", "Bottles")),
    ("Bottles", "BTL", "Bottle", 22, ("Day packs", "Cookware")),
    ("Day packs", "DPK", "Day Pack", 75, ("Bottles", "Rain jackets")),
    ("Trekking packs", "TPK", "Trekking Pack", 180, ("Trekking poles", "Hiking boots")),
    ("Trekking poles", "POL", "Trekking Poles", 85, ("Hiking boots", "Trekking packs")),
    ("Hiking boots", "BOO", "Boots", 160, ("Socks", "Trekking poles")),
    ("Trail shoes", "TRS", "Trail Shoes", 120, ("Socks", "Running vests")),
    ("Socks", "SOX", "Socks", 18, ("Hiking boots", "Trail shoes")),
    ("Rain jackets", "RNJ", "Rain Jacket", 170, ("Rain trousers", "Fleeces")),
    ("Rain trousers", "RNT", "Rain Trousers", 90, ("Rain jackets", "Hiking boots")),
    ("Fleeces", "FLC", "Fleece", 70, ("Base layers", "Rain jackets")),
    ("Base layers", "BSL", "Base Layer", 55, ("Fleeces", "Socks")),
    ("Running vests", "RNV", "Running Vest", 95, ("Trail shoes", "Bottles")),
    ("Headlamps", "HLP", "Headlamp", 48, ("Lanterns", "Running vests")),
    ("Climbing shoes", "CLS", "Climbing Shoes", 115, ("Chalk bags", "Harnesses")),
    ("Harnesses", "HRN", "Harness", 65, ("Ropes", "Climbing shoes")),
    ("Ropes", "ROP", "Rope", 140, ("Harnesses", "Quickdraws")),
    ("Quickdraws", "QDR", "Quickdraws", 80, ("Ropes", "Harnesses")),
    ("Chalk bags", "CHB", "Chalk Bag", 20, ("Climbing shoes", "Quickdraws")),
)
BRANDS = ("Norrfell", "Alpaca & Sons", "Kestrel", "Tundrine", "Basalt", "Ostrava", "Piko", "Windlass")
LINES = ("Ridge", "Fjord", "Summit", "Meadow", "Glacier", "Ember", "Drift", "Lynx", "Cirrus", "Moraine")


@dataclass(frozen=True)
class Range:
    """What can be said of the items, one category after the other."""

    category: Ints
    number: Ints
    brand: Ints
    line: Ints
    price: Floats

    @classmethod
    def draw(cls, random: np.random.Generator) -> Range:
        """Anew; numbers differ within a category."""
        category = np.repeat(np.arange(len(CATEGORIES)), SHELF)
        n = len(category)
        numbers = [random.choice(np.arange(10_000, 100_000), SHELF, replace=False) for _ in CATEGORIES]
        typical = np.array([price for *_, price, _ in CATEGORIES], np.float64)
        return cls(
            category,
            np.concatenate(numbers),
            random.integers(len(BRANDS), size=n),
            random.integers(len(LINES), size=n),
            np.round(typical[category] * random.lognormal(0, 0.4, n)) + 0.99,
        )

    def affinity(self, items: Ints, others: Ints) -> Floats:
        """(items, others): how readily a visitor goes from the one to the other, in powers of e."""
        # A tent is compared with tents of its price; a mat that is bought for it is as dear for a mat.
        level = np.log2(self.price / np.array([price for *_, price, _ in CATEGORIES])[self.category])
        of, to = items[:, None], others[None, :]
        affinity: Floats = (
            SAME_LINE * (self.line[of] == self.line[to])
            + SAME_BRAND * (self.brand[of] == self.brand[to])
            + TWICE_THE_PRICE * np.abs(level[of] - level[to])
        )
        return affinity

    def catalogue(self) -> pa.Table:
        """In the columns of `nextclick items import`."""
        items = []
        for category, number, brand, line, price in zip(
            *(each.tolist() for each in (self.category, self.number, self.brand, self.line, self.price)),
            strict=True,
        ):
            name, prefix, noun, *_ = CATEGORIES[category]
            items.append(
                {
                    "item_id": f"{prefix}-{number}",
                    "title": f"{BRANDS[brand]} {LINES[line]} {noun} {number // 100}",
                    "categories": name,
                    "brand": BRANDS[brand],
                    "tags": LINES[line],
                    "price": price,
                    "currency": "EUR",
                    "available": bool(number % OUT_OF_STOCK),
                    "image_url": picture(name, brand, line, number),
                }
            )
        return pa.Table.from_pylist(items)


@dataclass(frozen=True)
class Store:
    """The catalogue, and what visitors make of it; items are numbered one category after the other."""

    catalogue: pa.Table
    popularity: Floats  # (days, items), 0 where an item is not for sale yet
    similar: Ints  # (items, 12), the likeliest choice first
    complements: Ints  # (items, 6)


def write_demo_store(clicks_file: Path, *, sessions: int, days: int, seed: int) -> tuple[int, int]:
    """Write the click log, and items.csv, the catalogue, beside it; return how many clicks and items."""
    random = np.random.default_rng(seed)
    store = _open_store(random, days)
    clicks = _visit(random, store, sessions)
    clicks_file.parent.mkdir(parents=True, exist_ok=True)
    options = csv.WriteOptions(quoting_style="needed")
    csv.write_csv(clicks, clicks_file, options)
    csv.write_csv(store.catalogue, clicks_file.with_name("items.csv"), options)
    return len(clicks), len(store.catalogue)


def _open_store(random: np.random.Generator, days: int) -> Store:
    offered = Range.draw(random)
    n = len(offered.category)
    # Popularity falls with the rank on the shelf; some shelves are visited more than others.
    rank = np.concatenate([random.permutation(SHELF) for _ in CATEGORIES])
    visits = random.permutation(1 / np.sqrt(np.arange(2, len(CATEGORIES) + 2)))
    weight = visits[offered.category] * (rank + 1.0) ** -0.9
    popularity = weight * np.exp(np.cumsum(random.normal(0, 0.12, (days, n)), axis=0))
    late = random.random(n) < 1 / 7
    popularity[np.arange(days)[:, None] < np.where(late, random.integers(0, days, n), 0)] = 0

    shelf_of = {name: shelf for shelf, (name, *_) in enumerate(CATEGORIES)}
    similar, complements = np.empty((n, 12), np.int64), np.empty((n, 6), np.int64)
    for shelf, (*_, companions) in enumerate(CATEGORIES):
        here = _on_shelf(shelf)
        there = np.concatenate([_on_shelf(shelf_of[name]) for name in companions])
        for found, choices in ((similar, here), (complements, there)):
            pull = np.log(weight[choices]) + offered.affinity(here, choices)
            found[here] = _choose(random, pull, here, choices, found.shape[1])
    return Store(offered.catalogue(), popularity, similar, complements)


def _on_shelf(shelf: int) -> Ints:
    return np.arange(shelf * SHELF, (shelf + 1) * SHELF)


def _choose(random: np.random.Generator, pull: Floats, items: Ints, choices: Ints, k: int) -> Ints:
    """For each of `items`, k different others among `choices`, drawn by their `pull`, in powers of e."""
    # The k largest of pull plus Gumbel noise are a weighted draw without replacement.
    keys = pull + random.gumbel(size=pull.shape)
    keys[items[:, None] == choices] = -np.inf
    drawn: Ints = choices[np.argsort(-keys, axis=1)[:, :k]]
    return drawn


def _visit(random: np.random.Generator, store: Store, sessions: int) -> pa.Table:
    """The click log, in time order."""
    days, n = store.popularity.shape
    lengths = np.minimum(random.geometric(0.22, sessions), MAX_LENGTH)
    day = random.integers(days, size=sessions)
    items = np.zeros((sessions, MAX_LENGTH), np.int64)
    items[:, 0] = _look_around(random, store, day, np.zeros(sessions, np.int64), n)
    for step in range(1, int(lengths.max())):
        still = np.flatnonzero(lengths > step)
        items[still, step] = _next_items(random, store, day[still], items[still, :step])

    # Most come in the evening, and pause for half a minute between clicks, seldom for long.
    start = day * DAY + (random.normal(18, 4, sessions) % 24) * 3600
    pauses = np.minimum(random.lognormal(np.log(28), 1, items.shape), 1500)
    seconds = OPENING + start[:, None] + np.cumsum(pauses, axis=1)
    session, place = np.nonzero(np.arange(MAX_LENGTH) < lengths[:, None])
    milliseconds = (seconds[session, place] * 1000).astype(np.int64)
    order = np.lexsort((place, session, milliseconds))
    names = pa.array([f"s{number:07d}" for number in random.choice(10_000_000, sessions, replace=False)])
    return pa.table(
        {
            "session_id": names.take(pa.array(session[order])),
            "item_id": store.catalogue["item_id"].take(pa.array(items[session, place][order])),
            "timestamp": milliseconds[order],
        }
    )


def _next_items(random: np.random.Generator, store: Store, day: Ints, so_far: Ints) -> Ints:
    """The next click of each session, (sessions,), after the clicks `so_far`, (sessions, steps)."""
    n_sessions, steps = so_far.shape
    rows = np.arange(n_sessions)
    last = so_far[:, -1]
    shelf = last // SHELF * SHELF
    choices = {
        "similar": store.similar[last, _early(random, n_sessions, store.similar.shape[1])],
        "complement": store.complements[last, _early(random, n_sessions, store.complements.shape[1])],
        "seen before": so_far[rows, random.integers(steps, size=n_sessions)],
        "same shelf": _look_around(random, store, day, shelf, shelf + SHELF),
        "anything": _look_around(random, store, day, np.zeros_like(shelf), len(store.similar)),
    }
    habit = random.choice(len(HABITS), n_sessions, p=list(HABITS.values()))
    items = np.stack([choices[name] for name in HABITS])[habit, rows]
    # What is not for sale yet is replaced by what lies next to it.
    shelf = items // SHELF * SHELF
    instead = _look_around(random, store, day, shelf, shelf + SHELF)
    return np.where(store.popularity[day, items] > 0, items, instead)


def _early(random: np.random.Generator, size: int, n: int) -> Ints:
    """Places in a list of n choices, the first the likeliest."""
    weight = 0.75 ** np.arange(n)
    return random.choice(n, size, p=weight / weight.sum())


def _look_around(random: np.random.Generator, store: Store, day: Ints, start: Ints, stop: Ints | int) -> Ints:
    """One of the items start..stop for each session, by the popularity of the day."""
    _, n = store.popularity.shape
    mass = np.concatenate([[0.0], np.cumsum(store.popularity)])  # of all days, end to end
    low, high = mass[day * n + start], mass[day * n + stop]
    drawn = np.searchsorted(mass, low + random.random(len(day)) * (high - low), side="right")
    return np.asarray(drawn - 1 - day * n, np.int64)
