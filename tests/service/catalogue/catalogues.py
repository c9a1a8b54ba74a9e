"""Random catalogues, rules and sessions, and what they mean in plain Python."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from service.catalogue.attributes import Kind, Values

KINDS: dict[str, Kind] = {
    "title": "text",
    "categories": "strings",
    "price": "number",
    "available": "bool",
    "brand": "string",
    "sizes": "numbers",
    "published_at": "time",
}
NAMES = ["shoes", "hats", "socks", "Größe", ""]
NUMBERS = [-3.0, 0.0, 1.5, 10.0, 1e9]

names, numbers = st.sampled_from(NAMES), st.sampled_from(NUMBERS)
values: st.SearchStrategy[Values] = st.fixed_dictionaries(
    {},
    optional={
        "title": st.text(max_size=3),
        "categories": st.lists(names, max_size=4),
        "price": numbers,
        "available": st.booleans(),
        "brand": names,
        "sizes": st.lists(numbers, max_size=3),
        "published_at": numbers,
    },
)

value_of = {
    "categories": names,
    "brand": names,
    "price": numbers,
    "sizes": numbers,
    "available": st.booleans(),
}
value_of["published_at"] = numbers | numbers.map(lambda n: datetime.fromtimestamp(n, UTC).isoformat())


@st.composite
def leaves(draw: st.DrawFn, *, relative: bool = True) -> dict[str, object]:
    """A rule without others in it."""
    kind = draw(st.sampled_from(["same", "near", "leaf", "leaf", "leaf"] if relative else ["leaf"]))
    if kind == "same":
        return {"same": draw(st.sampled_from(["categories", "brand", "price", "sizes", "available"]))}
    if kind == "near":
        return {"near": "price", "percent": draw(st.sampled_from([0, 20, 150.5]))}
    attribute = draw(st.sampled_from(sorted(value_of)))
    value = value_of[attribute]
    operators: dict[str, st.SearchStrategy[Any]] = {
        "exists": st.booleans(),
        "in": st.lists(value, max_size=4),
    }
    operators["contains" if attribute in ("categories", "sizes") else "eq"] = value
    if attribute in ("price", "published_at"):
        operators |= dict.fromkeys(("lt", "lte", "gt", "gte"), value)
    asked = draw(st.lists(st.sampled_from(sorted(operators)), min_size=1, max_size=2, unique=True))
    return {"attribute": attribute, **{name: draw(operators[name]) for name in asked}}


def rules(*, relative: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """Any rule, as JSON."""
    return st.recursive(
        leaves(relative=relative),
        lambda inner: (
            st.fixed_dictionaries({"all": st.lists(inner, max_size=3)})
            | st.fixed_dictionaries({"any": st.lists(inner, max_size=3)})
            | st.fixed_dictionaries({"not": inner})
        ),
        max_leaves=6,
    )


def holds(rule: Mapping[str, Any], item: Values, session: Sequence[Values | None] = ()) -> bool:
    """Whether a rule lets an item through, for a session of these (None: the catalogue does not know it)."""
    return _asked(rule, item, session) is not False


def _asked(rule: Mapping[str, Any], item: Values, session: Sequence[Values | None]) -> bool | None:
    """None: nobody knows."""
    if "all" in rule:
        answers = [_asked(each, item, session) for each in rule["all"]]
        return False if False in answers else None if None in answers else True
    if "any" in rule:
        answers = [_asked(each, item, session) for each in rule["any"]]
        return True if True in answers else None if None in answers else False
    if "not" in rule:
        answer = _asked(rule["not"], item, session)
        return None if answer is None else not answer
    if "same" in rule:
        wanted = listed((session[-1] or {}).get(rule["same"])) if session else []
        return any(value in wanted for value in listed(item.get(rule["same"]))) if wanted else None
    if "near" in rule:
        prices = [float(each[rule["near"]]) for each in session if each and rule["near"] in each]  # type: ignore[arg-type]
        if not prices:
            return None
        middle = statistics.median(prices)
        reach = abs(middle) * rule["percent"] / 100
        price: Any = item.get(rule["near"])
        return price is not None and middle - reach <= price <= middle + reach
    value = item.get(rule["attribute"])
    return all(_compares(name, value, wanted) for name, wanted in rule.items() if name != "attribute")


def _compares(name: str, value: Any, wanted: Any) -> bool:
    if name == "exists":
        return bool((value is not None) is wanted)
    if name in ("eq", "contains"):
        return any(same(each, wanted) for each in listed(value))
    if name == "in":
        return any(same(each, one) for each in listed(value) for one in wanted)
    compare = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge}[name]
    return value is not None and bool(compare(value, as_number(wanted)))


def listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def same(value: Any, wanted: Any) -> bool:
    return bool(value == (as_number(wanted) if not isinstance(value, str) else wanted))


def as_number(wanted: Any) -> Any:
    """A time in a rule may be written as text."""
    return datetime.fromisoformat(wanted).timestamp() if isinstance(wanted, str) else wanted
