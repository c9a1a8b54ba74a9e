"""What rules let through: a mask a rule over the catalogue's rows, and for each bundle one that answers less.

A change of some items is a change of some rows: each mask is brought up to date for these when it is next
asked for. A restricted bundle is made anew only when an item of it comes in or out. What is not available is
a rule that always holds, and costs nothing while all is available.

All of this happens on the event loop, but for finding where a bundle's items stand in the catalogue: that is
done beside it, in the thread that makes a bundle ready to be served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Raw

from service.catalogue.attributes import Kind, Values
from service.catalogue.columns import Columns, Ints
from service.catalogue.rules import TRUE, Rule, Session, among, every, negated
from service.ranking.bundle import Bundle
from service.ranking.served import ServedBundle

MAX_RULES = 256  # kept compiled; of those that are bound to a session, another so many
MAX_BOUND = 64
MAX_BYTES = 64_000_000  # of all masks, about: where there are millions of items, fewer rules are kept
MIN_RULES = 16
MAX_BEHIND = 1000  # changes; a mask that was not asked for in so many is made anew
MAX_SERVED = 8  # bundles that one rule restricts: there are three, and some that are about to go
CAUGHT_UP = 500  # items that change while a bundle is aligned, and are looked up on the event loop
AVAILABLE = "available"

Rows = npt.NDArray[np.int32]


class Alignment:
    """Where a bundle's items stand in some columns."""

    def __init__(self, bundle: Bundle, columns: Columns) -> None:
        self.bundle = bundle  # held, so that no other one gets its id
        self.columns = columns
        self.rows: Rows = np.zeros(len(bundle.items), dtype=np.int32)  # by item index; 0: not there
        self._touched: list[str] | None = []  # while it is filled: the items that have changed since

    def fill(self) -> None:
        """Look up every item, while some may change; for another thread than the event loop's."""
        rows = np.zeros(
            len(self.bundle.items), dtype=np.int32
        )  # where nothing is written, it takes no memory
        if len(self.columns):  # what comes from now on is among the touched
            first = 1
            for item_ids in self.bundle.items.pieces():
                rows[first : first + len(item_ids)] = self.columns.rows(item_ids)
                first += len(item_ids)
        while self._touched is not None and len(self._touched) > CAUGHT_UP:
            touched, self._touched = self._touched, []
            self._look_up(rows, touched)
        self.rows = rows

    def finish(self) -> Alignment:
        """Look up what has changed meanwhile; from now on it is kept up to date."""
        touched, self._touched = self._touched, None
        self._look_up(self.rows, touched or [])
        return self

    def update(self, item_ids: Iterable[str]) -> bool:
        """Look up items that may stand elsewhere now; whether some do."""
        if self._touched is not None:
            self._touched += item_ids  # stored anew: if `fill` takes the list at this moment, it comes back
            return False
        return self._look_up(self.rows, item_ids)

    def _look_up(self, rows: Rows, item_ids: Iterable[str]) -> bool:
        find, row_of, moved = self.bundle.index_of.find, self.columns.row_of, False
        for item_id in item_ids:
            if item := find(item_id):
                row = row_of.get(item_id, 0)
                moved |= row != rows.item(item)
                rows[item] = row
        return moved


class Filter:
    """A rule, compiled: which rows it lets through, and the bundles that answer only these."""

    def __init__(self, rule: Rule, filters: Filters) -> None:
        self._rule = rule
        self._filters = filters
        self._columns = filters.columns  # its own, should these be replaced
        self._behind: list[Ints] = []  # rows that have changed since the mask was made
        self._moved = False
        self._served: dict[ServedBundle, ServedBundle] = {}
        self._make()

    def _make(self) -> None:
        self._mask = self._rule.mask(self._columns)
        self.allows_all = bool(self._mask.all())

    def changed(self, rows: Ints, *, moved: bool) -> None:
        """Some rows have changed; `moved`: an item of a bundle stands in another row."""
        self._behind.append(rows)
        self._moved |= moved

    def catch_up(self) -> Filter:
        """Be what the rule is now."""
        if not self._behind:
            return self
        columns, before = self._columns, self._mask
        if len(self._behind) > MAX_BEHIND:
            self._mask = self._rule.mask(columns)
            same = np.array_equal(before, self._mask[: len(before)])
        else:
            rows = np.unique(np.concatenate(self._behind))
            now = self._rule.mask(columns, rows)
            # A new row was row 0 to all who asked: which is not among the changed ones.
            known = rows < len(before)
            same = bool((before[rows[known]] == now[known]).all())
            self._mask = np.full(columns.n_rows, before[0])
            self._mask[: len(before)] = before
            self._mask[rows] = now
        self._behind = []
        self.allows_all = bool(self._mask.all())
        if self._moved or not same:
            self._served.clear()
        self._moved = False
        return self

    def allows(self, item_id: str) -> bool:
        """Whether an item may be answered; what came since `catch_up` counts as unknown."""
        row = self._columns.row_of.get(item_id, 0)
        return self._mask.item(row if row < len(self._mask) else 0)

    def served(self, served: ServedBundle) -> ServedBundle:
        """The bundle that answers only what may be answered."""
        if self.allows_all:
            return served
        restricted = self._served.get(served)
        if restricted is None:
            if len(self._served) >= MAX_SERVED:
                self._served.clear()
            rows = self._filters.rows_of(served.bundle)
            restricted = self._served[served] = served.only(self._mask[rows], self.allows)
        return restricted

    def forget(self, kept: Iterable[ServedBundle]) -> None:
        """Let go of all bundles but these."""
        self._served = {each: self._served[each] for each in kept if each in self._served}


class Filters:
    """The catalogue of one worker, and all rules that were asked of it lately."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self.columns = Columns(kinds)
        self.on_change: Callable[[Sequence[str]], object] = lambda _: None  # told of items that have changed
        self._alignments: dict[int, Alignment] = {}  # by id of the bundle
        self._aligning: list[Alignment] = []
        self._start()

    def _start(self) -> None:
        self._compiled: dict[Rule, Filter] = {}  # oldest use first
        self._bound: dict[Rule, Filter] = {}
        self._always_rule = negated(among(AVAILABLE, [0.0])) if AVAILABLE in self.columns.kinds else TRUE
        self._always = Filter(self._always_rule, self)

    def apply(self, items: Sequence[tuple[str, Values | None]]) -> None:
        """Take up what items are now, None for those that are gone."""
        rows = self.columns.apply(items)
        item_ids = [item_id for item_id, _ in items]
        moved = [each.update(item_ids) for each in (*self._alignments.values(), *self._aligning)]
        for each in self._filters():
            each.changed(rows, moved=any(moved))
        self.on_change(item_ids)

    def asked(self, rule: Rule | None, session: Sequence[str] = ()) -> Filter | None:
        """What may be answered to a session of these items, oldest first; None: everything."""
        if rule is None:
            always = self._always.catch_up()
            return None if always.allows_all else always
        if rule.is_relative:
            rule = rule.bound(Session.of(session, self.columns), self.columns)
            found = self._kept(rule, self._bound, MAX_BOUND)
        else:
            found = self._kept(rule, self._compiled, MAX_RULES)
        return None if found.allows_all else found

    def served(self, served: ServedBundle, rule: Rule | None = None) -> ServedBundle:
        """The bundle that answers only what a rule lets through."""
        found = self.asked(rule)
        return served if found is None else found.served(served)

    def allows(self, rule: Rule | None = None) -> Callable[[str], bool]:
        """Whether a rule lets an item through, for as long as nothing changes."""
        found = self.asked(rule)
        return (lambda _: True) if found is None else found.allows

    def values(self, item_ids: Sequence[str], fields: tuple[str, ...]) -> list[Raw]:
        """For each item a JSON object of these fields, null for what is absent."""
        return self.columns.values(item_ids, fields)

    def rows_of(self, bundle: Bundle) -> Rows:
        """The row of each of a bundle's items, by item index."""
        alignment = self._alignments.get(id(bundle))
        if alignment is None:  # nobody has made it ready
            alignment = self._alignments[id(bundle)] = Alignment(bundle, self.columns)
            alignment.fill()
            alignment.finish()
        return alignment.rows

    def aligning(self, bundles: Iterable[Bundle]) -> list[Alignment]:
        """New alignments of those that have none: to be filled in another thread, and then `keep`-t."""
        self._aligning = [
            Alignment(bundle, self.columns) for bundle in bundles if id(bundle) not in self._alignments
        ]
        return self._aligning

    def keep(self, served: Sequence[ServedBundle], new: Iterable[Alignment]) -> None:
        """Be ready for these bundles, with their new alignments, and let go of all others."""
        self._aligning = []
        for each in new:
            if each.columns is self.columns:  # else they were replaced, and `rows_of` looks again
                self._alignments[id(each.bundle)] = each.finish()
        wanted = {id(each.bundle) for each in served}
        self._alignments = {key: each for key, each in self._alignments.items() if key in wanted}
        for compiled in self._filters():
            compiled.forget(served)

    async def replace(self, columns: Columns) -> None:
        """Take another catalogue in the place of this one; nobody else may change it meanwhile."""
        new = [Alignment(each.bundle, columns) for each in self._alignments.values()]
        for each in new:
            await asyncio.to_thread(each.fill)
        self.columns = columns
        self._alignments = {id(each.bundle): each.finish() for each in new}
        self._start()

    def _filters(self) -> list[Filter]:
        return [self._always, *self._compiled.values(), *self._bound.values()]

    def _kept(self, rule: Rule, compiled: dict[Rule, Filter], most: int) -> Filter:
        found = compiled.pop(rule, None)
        if found is None:
            found = Filter(every([rule, self._always_rule]), self)
            size = self.columns.n_rows + sum(4 * len(each.rows) for each in self._alignments.values())
            while len(compiled) >= min(most, max(MIN_RULES, MAX_BYTES // size)):
                del compiled[next(iter(compiled))]
        compiled[rule] = found
        return found.catch_up()
