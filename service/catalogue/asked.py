"""What a request wants of the catalogue: fields, a filter, and steering. Each distinct one is read once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from msgspec import UNSET, Raw, UnsetType

from service.catalogue.attributes import Kind
from service.catalogue.placements import Prepared, prepare
from service.catalogue.placements import decode as decode_placement
from service.catalogue.rules import MAX_QUOTED, Rule, RuleError, decode, every, read

MAX_KEPT = 512  # of fields, of filters, and of steering
MAX_KEPT_LENGTH = 4096  # characters; longer ones are read each time
NULL = Raw(b"null")

Made = TypeVar("Made")


class Asked:
    """Reads fields and filters, of attributes of these kinds. Raises `RuleError` naming the place."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds
        self._fields: dict[Hashable, tuple[str, ...]] = {}
        self._rules: dict[Hashable, Rule | None] = {}
        self._steering: dict[Hashable, Prepared] = {}

    def fields(self, text: str, place: str) -> tuple[str, ...]:
        """Comma-separated names of attributes."""
        return _once(
            self._fields, (text, place), len(text), lambda: self.named(text.split(",") if text else [], place)
        )

    def named(self, names: Sequence[str], place: str) -> tuple[str, ...]:
        """Names of attributes, each once."""
        for name in names:
            if name not in self._kinds:
                raise RuleError(place, f"there is no attribute {name[:MAX_QUOTED]!r}")
        return tuple(dict.fromkeys(names))

    def body(self, filter: Raw | UnsetType, place: str) -> Rule | None:  # noqa: A002
        """The rule in a body."""
        if filter is UNSET or filter == NULL:
            return None
        text = bytes(filter)
        return _once(self._rules, (text, place), len(text), lambda: decode(text, self._kinds, place))

    def steering(self, parts: Mapping[str, Raw], place: str) -> Prepared:
        """What a body says of steering, as a placement without a name. Raises `PlacementError`."""
        # Each part is JSON, as it stood in the body.
        text = (
            b"{" + b",".join(b'"%b":%b' % (name.encode(), bytes(part)) for name, part in parts.items()) + b"}"
        )

        def make() -> Prepared:
            return prepare("", decode_placement(text, place), self._kinds, f"{place}.")

        return _once(self._steering, (text, place), len(text), make)

    def query(
        self,
        filter: str | None,  # noqa: A002
        categories: Sequence[str],
        available: bool | None,
        price_max: float | None,
    ) -> Rule | None:
        """The rule of a query, and its shortcuts: all of them have to hold."""
        key = (filter, *categories, available, price_max)
        length = len(filter or "") + sum(map(len, categories))
        return _once(self._rules, key, length, lambda: self._read(filter, categories, available, price_max))

    def _read(
        self, text: str | None, categories: Sequence[str], available: bool | None, price_max: float | None
    ) -> Rule | None:
        rules = [] if text is None else [decode(text, self._kinds, "query.filter")]
        for name, given, rule in (
            ("category", categories or None, {"attribute": "categories", "in": list(categories)}),
            ("available", available, {"attribute": "available", "eq": True}),
            ("price_max", price_max, {"attribute": "price", "lte": price_max}),
        ):
            if given is False:
                raise RuleError(f"query.{name}", "what is not available is never answered")
            if given is not None:
                try:
                    rules.append(read(rule, self._kinds, f"query.{name}"))
                except RuleError as error:
                    raise RuleError(f"query.{name}", error.message) from None
        return every(rules) if rules else None


def _once(kept: dict[Hashable, Made], key: Hashable, length: int, make: Callable[[], Made]) -> Made:
    try:
        return kept[key]
    except KeyError:
        made = make()
    if length <= MAX_KEPT_LENGTH:
        if len(kept) >= MAX_KEPT:
            del kept[next(iter(kept))]
        kept[key] = made
    return made
