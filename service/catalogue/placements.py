"""Placements: a name for what is answered in one place of a shop: filter, fields, steering, stages and k.

A placement is written as JSON (`Placement`), kept in deployment.json with its history, and prepared once for
each deployment (`Prepared`): its rules are read then, against the attributes that there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from service.catalogue.attributes import Kind
from service.catalogue.columns import Columns
from service.catalogue.rules import Rule, RuleError, Session, every, read
from service.catalogue.steering import Boost, Bury, Cap, Matches, Pin, Promotion, Steering, Values
from service.ranking.bundle import NO_CONTROL_CHARACTERS, VERSION_PATTERN
from service.ranking.item_ids import MAX_ITEM_ID_LENGTH, item_id_problem

MAX_PLACEMENTS = 32
MAX_VERSIONS = 20  # of each, that are kept
MAX_PLACEMENT_BYTES = 32768  # as JSON
MAX_BOTH = 64  # rules of a placement, together with those of requests
MAX_K = 100
NAME = re.compile(r"[a-z0-9_-]{1,32}")
LIST_KINDS = ("string", "strings")  # whose values a cap counts

STEERING = ("boosts", "bury", "promotions", "caps", "mmr", "pins")  # what moves items

StageName = Literal["neighbours", "model", "trending", "popular"]


class PlacementError(ValueError):
    """What is wrong with a placement, and at which `field`: as in boosts.0.rule.all.1.lt."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def _clean(text: str) -> str:
    problem = item_id_problem(text)
    if problem:
        raise PydanticCustomError("id", "the id {problem}", {"problem": problem})
    return text


Tree = Annotated[dict[str, Any], Field(description="a rule: see docs/filters.md")]
ItemId = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ITEM_ID_LENGTH, json_schema_extra={"pattern": NO_CONTROL_CHARACTERS}),
    AfterValidator(_clean),
]
RuleName = Annotated[
    str | None,
    Field(min_length=1, max_length=64, description="what an explanation calls it"),
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BoostPart(_Part):
    """What matches counts for more, or for less."""

    rule: Tree
    factor: float = Field(default=1.0, ge=0, le=1000)
    addition: float = Field(default=0.0, ge=-1000, le=1000)
    name: RuleName = None


class BuryPart(_Part):
    """What matches stands behind all others."""

    rule: Tree
    name: RuleName = None


class PinPart(_Part):
    """An item at a position, from 1 on."""

    item_id: ItemId
    position: int = Field(ge=1, le=MAX_K)


class PromotionPart(_Part):
    """At least so many percent of an answer match."""

    rule: Tree
    percent: int = Field(ge=1, le=100)
    name: RuleName = None


class CapPart(_Part):
    """At most so many items of an answer share a value."""

    attribute: str = Field(max_length=64)
    at_most: int = Field(ge=1, le=MAX_K)


class Placement(_Part):
    """What one place of a shop is answered; what is left out is as it is without a placement."""

    k: int | None = Field(default=None, ge=1, le=MAX_K)
    fields: tuple[str, ...] | None = Field(
        default=None, max_length=64, strict=False, json_schema_extra={"uniqueItems": True}
    )
    filter: Tree | None = None
    boosts: tuple[BoostPart, ...] = Field(default=(), max_length=16, strict=False)
    bury: tuple[BuryPart, ...] = Field(default=(), max_length=16, strict=False)
    promotions: tuple[PromotionPart, ...] = Field(default=(), max_length=8, strict=False)
    caps: tuple[CapPart, ...] = Field(default=(), max_length=8, strict=False)
    mmr: float | None = Field(
        default=None, ge=0, le=1, description="λ: 1 is relevance alone, 0 only how unlike items are"
    )
    pins: tuple[PinPart, ...] = Field(default=(), max_length=MAX_K, strict=False)
    exclude_seen: bool | None = None
    stages: tuple[StageName, ...] | None = Field(
        default=None, min_length=1, strict=False, json_schema_extra={"uniqueItems": True}
    )
    model: str | None = Field(default=None, pattern=rf"^{VERSION_PATTERN.pattern}$")

    @model_validator(mode="after")
    def _says_nothing_twice(self) -> Self:
        for what, given in (
            ("pins: item", [pin.item_id for pin in self.pins]),
            ("pins: position", [pin.position for pin in self.pins]),
            ("caps: attribute", [cap.attribute for cap in self.caps]),
            ("stages", list(self.stages or ())),
            ("fields", list(self.fields or ())),
        ):
            if len(set(given)) < len(given):
                raise PydanticCustomError("twice", "{what} is named twice", {"what": what})
        size = len(self.model_dump_json())
        if size > MAX_PLACEMENT_BYTES:
            message = "is {size} bytes of JSON: at most {most}"
            raise PydanticCustomError("large", message, {"size": size, "most": MAX_PLACEMENT_BYTES})
        return self


class PlacementVersion(BaseModel):
    """A placement as it was from some time on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int = Field(ge=1)
    at: float = Field(description="when it was written, in epoch seconds")
    by: str
    placement: Placement


History = tuple[PlacementVersion, ...]  # oldest first; the last one holds


class _Boosts(NamedTuple):
    name: str
    rule: Rule
    factor: float
    addition: float


class _Buries(NamedTuple):
    name: str
    rule: Rule


class _Promotes(NamedTuple):
    name: str
    rule: Rule
    percent: int


@dataclass(frozen=True)
class Prepared:
    """A placement whose rules are read. `problem`: why nothing is answered from it, if it cannot be."""

    name: str  # '' if a request brings it
    placement: Placement
    filter: Rule | None = None
    boosts: Sequence[_Boosts] = ()
    bury: Sequence[_Buries] = ()
    promotions: Sequence[_Promotes] = ()
    problem: str | None = None
    _both: dict[tuple[Rule, Rule], Rule] = field(default_factory=dict, compare=False)

    def both(self, one: Rule | None, other: Rule) -> Rule:
        """A rule that lets through what both do; those of late are at hand."""
        if one is None:
            return other
        found = self._both.get((one, other))
        if found is None:
            if len(self._both) >= MAX_BOTH:
                self._both.clear()
            found = self._both[one, other] = every([one, other])
        return found

    def steered_by(self, other: Prepared) -> Prepared:
        """This one, but what the other says of steering, be it nothing, holds instead."""
        said = other.placement.model_fields_set.intersection(STEERING)
        rules = {name: getattr(other, name) for name in said.intersection(("boosts", "bury", "promotions"))}
        placement = self.placement.model_copy(update={name: getattr(other.placement, name) for name in said})
        return replace(self, placement=placement, **rules)

    @cached_property
    def steers(self) -> bool:
        """Whether it moves items, and so has to see more than k of them."""
        told = self.placement
        moves = told.boosts or told.bury or told.promotions or told.caps or told.pins
        return bool(moves) or told.mmr is not None

    @cached_property
    def is_relative(self) -> bool:
        """Whether one of its rules is about the session."""
        rules = [
            *(part.rule for part in self.boosts),
            *(part.rule for part in self.bury),
            *(part.rule for part in self.promotions),
        ]
        return any(rule.is_relative for rule in rules) or (
            self.filter is not None and self.filter.is_relative
        )

    @cached_property
    def attributes(self) -> frozenset[str]:
        """Those that its rules and caps go by."""
        told = self.placement
        trees = [told.filter, *(b.rule for b in told.boosts), *(b.rule for b in told.bury)]
        trees += [promotion.rule for promotion in told.promotions]
        return frozenset([*_named_in(trees), *(cap.attribute for cap in told.caps)])

    def steering(self, session: Session, columns: Columns) -> Steering:
        """What to steer a session's answer by; the same for every session unless `is_relative`."""

        def matches(rule: Rule) -> Matches:
            bound = rule.bound(session, columns)
            return lambda rows: bound.mask(columns, rows)

        told = self.placement
        return Steering(
            [Boost(each.name, matches(each.rule), each.factor, each.addition) for each in self.boosts],
            [Bury(each.name, matches(each.rule)) for each in self.bury],
            [Promotion(each.name, matches(each.rule), each.percent) for each in self.promotions],
            [
                Cap(f"at most {cap.at_most} of {cap.attribute}", _held(columns, cap), cap.at_most)
                for cap in told.caps
            ],
            told.mmr,
            [Pin(f"pin {pin.position}", pin.item_id, pin.position) for pin in told.pins],
        )


def _named_in(tree: object) -> Iterator[str]:
    """The attributes that a rule names, as it is written."""
    if isinstance(tree, Mapping):
        yield from (tree[key] for key in ("attribute", "same", "near") if isinstance(tree.get(key), str))
        tree = list(tree.values())
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        for each in tree:
            yield from _named_in(each)


def _held(columns: Columns, cap: CapPart) -> Values:
    return lambda rows: columns.held(cap.attribute, rows)


def decode(text: bytes, place: str) -> Placement:
    """The placement that JSON text holds; `place` is where it stands. Raises `PlacementError`."""
    try:
        return Placement.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"]
        if first["type"] == "json_invalid":
            message = f"not JSON: {first['ctx']['error']}"
        raise PlacementError(".".join(map(str, (place, *first["loc"]))), message) from None


def prepare(name: str, placement: Placement, kinds: Mapping[str, Kind], place: str = "") -> Prepared:
    """Read a placement's rules; `place` is where it stands, with a dot. Raises `PlacementError`."""

    def rule(tree: Mapping[str, Any], at: str) -> Rule:
        try:
            return read(tree, kinds, place + at)
        except RuleError as error:
            raise PlacementError(error.place, error.message) from None

    for number, name_of_field in enumerate(placement.fields or ()):
        if name_of_field not in kinds:
            message = f"there is no attribute {name_of_field[:64]!r}"
            raise PlacementError(f"{place}fields.{number}", message)
    for number, cap in enumerate(placement.caps):
        _check_cap(cap, kinds, f"{place}caps.{number}.attribute")
    return Prepared(
        name,
        placement,
        rule(placement.filter, "filter") if placement.filter is not None else None,
        [
            _Boosts(
                part.name or f"boost {n + 1}", rule(part.rule, f"boosts.{n}.rule"), part.factor, part.addition
            )
            for n, part in enumerate(placement.boosts)
        ],
        [
            _Buries(part.name or f"bury {n + 1}", rule(part.rule, f"bury.{n}.rule"))
            for n, part in enumerate(placement.bury)
        ],
        [
            _Promotes(
                part.name or f"promotion {n + 1}", rule(part.rule, f"promotions.{n}.rule"), part.percent
            )
            for n, part in enumerate(placement.promotions)
        ],
    )


def prepare_all(placements: Mapping[str, Placement], kinds: Mapping[str, Kind]) -> dict[str, Prepared]:
    """All of a deployment; one that cannot be read says why in `problem`, and the others hold."""
    prepared: dict[str, Prepared] = {}
    for name, placement in placements.items():
        try:
            prepared[name] = prepare(name, placement, kinds)
        except PlacementError as error:  # an attribute that was declared once, and is no more
            prepared[name] = Prepared(name, placement, problem=str(error))
    return prepared


def _check_cap(cap: CapPart, kinds: Mapping[str, Kind], place: str) -> None:
    kind = kinds.get(cap.attribute)
    if kind is None:
        raise PlacementError(place, f"there is no attribute {cap.attribute!r}")
    if kind not in LIST_KINDS:
        raise PlacementError(place, f"{cap.attribute} is of kind {kind}, not {' or '.join(LIST_KINDS)}")
