"""Rules: which items may be answered, as JSON that anybody may send, and as masks over rows.

    {"all": [...]} {"any": [...]} {"not": {...}}
    {"attribute": "price", "gte": 10, "lt": 50}     eq, in, lt, lte, gt, gte, contains, exists
    {"same": "categories"}                          shares a value with the session's newest item
    {"near": "price", "percent": 20}                within 20 % of the median of the session's items

A comparison with what is absent is false, and `not` inverts that. `in` on a list holds if one of the list's
values is among them. A rule about the session is bound to it first (`bound`); where the session has no such
value, nobody knows whether it holds, and what nobody knows takes no item away: it is true, in a `not` false.

Rules are values: what is written differently and means the same is the same rule where that is easy to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeGuard, get_args

import msgspec
import numpy as np

from service.catalogue.attributes import Kind
from service.catalogue.columns import Columns, Comparison, Ints, Mask, Numbers, Searchable, Where

MAX_LEAVES = 32
MAX_DEPTH = 8
MAX_VALUES = 1000
MAX_VALUE_LENGTH = 256
MAX_QUOTED = 64  # characters of what somebody made up
MAX_NUMBER = 1.7e308  # an int can be larger than any float
COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)


class RuleError(ValueError):
    """What is wrong with a rule, and at which `place`: as in filter.all.1.lt."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.message = message


class Session(NamedTuple):
    """The rows of a session's items that the catalogue knows, and of its newest item (0: unknown)."""

    newest: int = 0
    rows: Sequence[int] = ()

    @classmethod
    def of(cls, item_ids: Sequence[str], columns: Columns) -> Session:
        """Of items clicked, oldest click first; each counts once."""
        rows = columns.rows(list(dict.fromkeys(item_ids)))
        newest = columns.row_of.get(item_ids[-1], 0) if item_ids else 0
        return cls(newest, [row for row in rows if row])


class Rule(msgspec.Struct, frozen=True):
    """One of the kinds below."""

    @property
    def is_relative(self) -> bool:
        """Whether it has to be bound to a session before it has a mask."""
        return False

    def mask(self, columns: Columns, rows: Ints | None = None) -> Mask:
        """Which of `rows` it lets through; None asks for all rows there are, from 0 on."""
        return self._over(columns, columns.all_rows if rows is None else rows)

    def bound(self, session: Session, columns: Columns, unknown: Rule | None = None) -> Rule:
        """The rule for one session; where that does not say whether it holds, it is `unknown` (true)."""
        return self

    def _over(self, columns: Columns, where: Where) -> Mask:
        raise NotImplementedError


class Among(Rule, frozen=True, tag=True):
    """Has one of the values, or a list that holds one."""

    attribute: str
    values: tuple[str | float, ...]  # distinct, sorted

    def _over(self, columns: Columns, where: Where) -> Mask:
        return _searchable(columns, self.attribute).among(self.values, where)


class Compared(Rule, frozen=True, tag=True):
    """Has a number, or a time, that compares so."""

    attribute: str
    operator: Comparison
    value: float

    def _over(self, columns: Columns, where: Where) -> Mask:
        return _numbers(columns, self.attribute).compared(self.operator, self.value, where)


class Present(Rule, frozen=True, tag=True):
    """Has the attribute."""

    attribute: str

    def _over(self, columns: Columns, where: Where) -> Mask:
        return _searchable(columns, self.attribute).present(where)


class Not(Rule, frozen=True, tag=True):
    """Is not let through by the other rule."""

    rule: Rule

    @property
    def is_relative(self) -> bool:
        return self.rule.is_relative

    def bound(self, session: Session, columns: Columns, unknown: Rule | None = None) -> Rule:
        return negated(self.rule.bound(session, columns, TRUE if unknown is FALSE else FALSE))

    def _over(self, columns: Columns, where: Where) -> Mask:
        return ~self.rule._over(columns, where)


class All(Rule, frozen=True, tag=True):
    """Is let through by every one of the rules; `every` makes it."""

    rules: tuple[Rule, ...]

    @property
    def is_relative(self) -> bool:
        return any(rule.is_relative for rule in self.rules)

    def bound(self, session: Session, columns: Columns, unknown: Rule | None = None) -> Rule:
        return every([rule.bound(session, columns, unknown) for rule in self.rules])

    def _over(self, columns: Columns, where: Where) -> Mask:
        mask = self.rules[0]._over(columns, where) if self.rules else _all_true(columns, where)
        for rule in self.rules[1:]:
            mask &= rule._over(columns, where)
        return mask


class AnyOf(Rule, frozen=True, tag=True):
    """Is let through by one of the rules at least; `some` makes it."""

    rules: tuple[Rule, ...]

    @property
    def is_relative(self) -> bool:
        return any(rule.is_relative for rule in self.rules)

    def bound(self, session: Session, columns: Columns, unknown: Rule | None = None) -> Rule:
        return some([rule.bound(session, columns, unknown) for rule in self.rules])

    def _over(self, columns: Columns, where: Where) -> Mask:
        mask = self.rules[0]._over(columns, where) if self.rules else ~_all_true(columns, where)
        for rule in self.rules[1:]:
            mask |= rule._over(columns, where)
        return mask


class Same(Rule, frozen=True, tag=True):
    """Shares a value with the session's newest item."""

    attribute: str

    @property
    def is_relative(self) -> bool:
        return True

    def bound(self, session: Session, columns: Columns, unknown: Rule | None = None) -> Rule:
        value: Any = columns[self.attribute].shown(session.newest) if session.newest else None
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not values:
            return unknown or TRUE
        return among(self.attribute, [each if isinstance(each, str) else float(each) for each in values])


class Near(Rule, frozen=True, tag=True):
    """Lies within so many percent of the median of the session's items."""

    attribute: str
    percent: float

    @property
    def is_relative(self) -> bool:
        return True

    def bound(self, session: Session, columns: Columns, unknown: Rule | None = None) -> Rule:
        cells = _numbers(columns, self.attribute).cells[np.array(session.rows, dtype=np.int64)]
        known = np.sort(cells[~np.isnan(cells)])
        if not len(known):
            return unknown or TRUE
        median = float(known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2
        reach = abs(median) * self.percent / 100
        return every(
            [
                Compared(self.attribute, "gte", median - reach),
                Compared(self.attribute, "lte", median + reach),
            ]
        )


TRUE, FALSE = All(()), AnyOf(())


def among(attribute: str, values: Sequence[str | float]) -> Among:
    """The one rule for these values, in whatever order they come, and however often."""
    return Among(attribute, tuple(sorted(set(values))))  # all of one type


def negated(rule: Rule) -> Rule:
    """`Not`, but twice is not at all."""
    if rule in (TRUE, FALSE):
        return FALSE if rule == TRUE else TRUE
    return rule.rule if isinstance(rule, Not) else Not(rule)


def every(rules: Sequence[Rule]) -> Rule:
    """The one rule for all of these, in whatever order they come."""
    flat = _sorted([each for rule in rules for each in (rule.rules if isinstance(rule, All) else (rule,))])
    return flat[0] if len(flat) == 1 else All(flat)


def some(rules: Sequence[Rule]) -> Rule:
    """The one rule for any of these, in whatever order they come."""
    flat = _sorted([each for rule in rules for each in (rule.rules if isinstance(rule, AnyOf) else (rule,))])
    return flat[0] if len(flat) == 1 else AnyOf(flat)


def _sorted(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    return tuple(sorted(set(rules), key=repr))


def decode(text: bytes | str, kinds: Mapping[str, Kind], place: str = "filter") -> Rule:
    """The rule that JSON text holds. Raises `RuleError`."""
    try:
        tree = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RuleError(place, f"not JSON: {error}") from None
    return read(tree, kinds, place)


def read(tree: object, kinds: Mapping[str, Kind], place: str = "filter") -> Rule:
    """The rule that a parsed JSON object says, of attributes of these kinds. Raises `RuleError`."""
    return _Reader(kinds, place).rule(tree, place, 1)


@dataclass
class _Reader:
    """One reading of a rule, which may have so many leaves and values in all."""

    kinds: Mapping[str, Kind]
    root: str
    leaves: int = 0
    values: int = 0

    def rule(self, tree: object, place: str, depth: int) -> Rule:
        if depth > MAX_DEPTH:
            raise RuleError(self.root, f"nested deeper than {MAX_DEPTH}")
        tree = _object(tree, place)
        for name, rule_of in (("all", every), ("any", some)):
            if name in tree:
                _only(tree, (name,), place)
                return rule_of(self._rules(tree[name], f"{place}.{name}", depth))
        if "not" in tree:
            _only(tree, ("not",), place)
            return negated(self.rule(tree["not"], f"{place}.not", depth + 1))
        self.leaves += 1
        if self.leaves > MAX_LEAVES:
            raise RuleError(self.root, f"more than {MAX_LEAVES} leaves")
        if "same" in tree:
            _only(tree, ("same",), place)
            attribute = self._attribute(tree["same"], f"{place}.same")
            if self.kinds[attribute] == "time":
                raise RuleError(f"{place}.same", f"{attribute} is a time: no two items share one")
            return Same(attribute)
        if "near" in tree:
            return self._near(tree, place)
        if "attribute" in tree:
            return self._leaf(tree, place)
        raise RuleError(place, "has none of: all, any, not, attribute, same, near")

    def _rules(self, trees: object, place: str, depth: int) -> list[Rule]:
        if not isinstance(trees, list):
            raise RuleError(place, "a list of rules is expected")
        if depth == MAX_DEPTH and trees:
            raise RuleError(self.root, f"nested deeper than {MAX_DEPTH}")
        if len(trees) > MAX_LEAVES:
            raise RuleError(self.root, f"more than {MAX_LEAVES} leaves")
        return [self.rule(each, f"{place}.{number}", depth + 1) for number, each in enumerate(trees)]

    def _near(self, tree: Mapping[str, object], place: str) -> Rule:
        _only(tree, ("near", "percent"), place)
        attribute = self._attribute(tree["near"], f"{place}.near")
        if self.kinds[attribute] not in ("number", "time"):
            raise RuleError(f"{place}.near", f"{attribute} is of kind {self.kinds[attribute]}, not number")
        percent = tree.get("percent")
        if not _is_number(percent) or percent < 0:
            raise RuleError(f"{place}.percent", "a number of 0 or more is expected")
        return Near(attribute, float(percent))

    def _leaf(self, tree: Mapping[str, object], place: str) -> Rule:
        _only(tree, ("attribute", "eq", "in", *COMPARISONS, "contains", "exists"), place)
        attribute = self._attribute(tree["attribute"], f"{place}.attribute")
        if len(tree) == 1:
            raise RuleError(
                place, f"{attribute} is compared with nothing: give eq, in, lt, lte, gt, gte, ..."
            )
        operators = [name for name in tree if name != "attribute"]
        return every([self._one(attribute, name, tree[name], f"{place}.{name}") for name in operators])

    def _one(self, attribute: str, operator: str, given: object, place: str) -> Rule:
        kind = self.kinds[attribute]
        is_list = kind in ("strings", "numbers")
        if operator == "exists":
            if not isinstance(given, bool):
                raise RuleError(place, "true or false is expected")
            return Present(attribute) if given else Not(Present(attribute))
        if operator == "in":
            if not isinstance(given, list):
                raise RuleError(place, "a list of values is expected")
            if self.values + len(given) > MAX_VALUES:
                raise RuleError(self.root, f"more than {MAX_VALUES} values")
            return among(
                attribute,
                [self._value(each, kind, f"{place}.{number}") for number, each in enumerate(given)],
            )
        if operator in ("eq", "contains"):
            if is_list is not (operator == "contains"):
                why = "is a list: ask what it contains" if is_list else "is no list: eq and in compare it"
                raise RuleError(place, f"{attribute} {why}")
            return among(attribute, [self._value(given, kind, place)])
        if kind not in ("number", "time"):
            raise RuleError(place, f"{attribute} is of kind {kind}: only a number or a time has an order")
        value = self._value(given, kind, place)
        assert not isinstance(value, str), "of a number or a time"
        return Compared(attribute, next(each for each in COMPARISONS if each == operator), value)

    def _value(self, given: object, kind: str, place: str) -> str | float:
        self.values += 1
        if self.values > MAX_VALUES:
            raise RuleError(self.root, f"more than {MAX_VALUES} values")
        if kind in ("string", "strings"):
            if not isinstance(given, str):
                raise RuleError(place, "a string is expected")
            if len(given) > MAX_VALUE_LENGTH:
                raise RuleError(place, f"longer than {MAX_VALUE_LENGTH} characters")
            return given
        if kind == "bool":
            if not isinstance(given, bool):
                raise RuleError(place, "true or false is expected")
            return float(given)
        if kind == "time" and isinstance(given, str):
            return _time(given, place)
        if not _is_number(given):
            also = ", or a time in ISO 8601" if kind == "time" else ""
            raise RuleError(place, f"a number is expected{also}")
        return float(given)

    def _attribute(self, given: object, place: str) -> str:
        if not isinstance(given, str):
            raise RuleError(place, "the name of an attribute is expected")
        kind = self.kinds.get(given)
        if kind is None:
            raise RuleError(place, f"there is no attribute {given[:MAX_QUOTED]!r}")
        if kind == "text":
            raise RuleError(place, f"{given} is only shown: no rule can ask for it")
        return given


def _object(tree: object, place: str) -> Mapping[str, object]:
    if not isinstance(tree, dict):
        raise RuleError(place, "an object is expected")
    return tree


def _only(tree: Mapping[str, object], names: Sequence[str], place: str) -> None:
    for name in tree:
        if name not in names:
            raise RuleError(f"{place}.{name[:MAX_QUOTED]}", f"unknown; here stand {', '.join(names)}")


def _is_number(given: object) -> TypeGuard[float]:
    """A finite one; true and false are none."""
    return isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= MAX_NUMBER


def _time(text: str, place: str) -> float:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise RuleError(place, "a time in ISO 8601 is expected, as 2026-01-31T12:00:00Z") from None
    if time.tzinfo is None:
        raise RuleError(place, "a time needs its zone, as in 2026-01-31T12:00:00Z")
    return time.timestamp()


def _searchable(columns: Columns, attribute: str) -> Searchable:
    column = columns[attribute]
    assert isinstance(column, Searchable), "no rule about a text is read"
    return column


def _numbers(columns: Columns, attribute: str) -> Numbers:
    column = columns[attribute]
    assert isinstance(column, Numbers), "no comparison of anything else is read"
    return column


def _all_true(columns: Columns, where: Where) -> Mask:
    return np.ones(columns.n_rows if isinstance(where, slice) else len(where), dtype=bool)
