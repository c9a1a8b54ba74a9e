"""The form of a placement: what is typed, the placement it says, where errors belong, changes in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from console.shown.sessions import when

STAGES = ("neighbours", "model", "trending", "popular")
SEEN = {"": "as deployed", "true": "leave out", "false": "may be answered"}
TEXTS = ("k", "fields", "filter", "mmr", "exclude_seen", "stages", "model")
PARTS: Mapping[str, tuple[str, ...]] = {
    "boosts": ("name", "factor", "addition", "rule"),
    "bury": ("name", "rule"),
    "promotions": ("name", "percent", "rule"),
    "caps": ("attribute", "at_most"),
    "pins": ("item_id", "position"),
}
NEW: Mapping[str, Mapping[str, str]] = {  # what a new row starts with
    "boosts": {"factor": "1.5"},
    "promotions": {"percent": "20"},
    "caps": {"at_most": "2"},
    "pins": {"position": "1"},
}
LISTS = ("fields", "stages")
WHOLE, NUMBERS, RULES = (
    ("k", "percent", "at_most", "position"),
    ("mmr", "factor", "addition"),
    ("filter", "rule"),
)
LONGEST = 120  # characters of a value in words

Place = tuple[str, ...]  # in the form: ("k",), or ("boosts", "0", "rule"); () is the form itself


class FormError(ValueError):
    """What is wrong with what was typed, and where."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


@dataclass
class Form:
    """What stands in the fields, as text."""

    texts: dict[str, str] = field(default_factory=lambda: dict.fromkeys(TEXTS, ""))
    parts: dict[str, list[dict[str, str]]] = field(default_factory=lambda: {name: [] for name in PARTS})

    @classmethod
    def of(cls, placement: Mapping[str, Any]) -> Form:
        """The form that says a placement."""
        form = cls()
        form.texts = {name: _text(name, placement.get(name)) for name in TEXTS}
        for part, names in PARTS.items():
            form.parts[part] = [
                {name: _text(name, each.get(name)) for name in names} for each in placement.get(part) or ()
            ]
        return form

    def add(self, part: str) -> None:
        """Another row."""
        self.parts[part].append({**dict.fromkeys(PARTS[part], ""), **NEW.get(part, {})})

    def placement(self) -> dict[str, Any]:
        """What it says, of which nothing that is empty. Raises `FormError` for what no placement could be."""
        said = {name: _value(name, text, (name,)) for name, text in self.texts.items()}
        for part, rows in self.parts.items():
            said[part] = [
                {
                    name: value
                    for name, text in row.items()
                    if (value := _value(name, text, (part, str(number), name))) is not None
                }
                for number, row in enumerate(rows)
            ]
        return {name: value for name, value in said.items() if value is not None and value != []}


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in RULES:
        return json.dumps(value, indent=1, ensure_ascii=False) if len(str(value)) > 60 else _json(value)
    if name in LISTS:
        return ", ".join(value)
    if name == "exclude_seen":
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(name: str, text: str, place: Place) -> Any:
    text = text.strip()
    if not text:
        return None
    if name in RULES:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormError(place, f"is no JSON: {error}") from None
    if name in LISTS:
        return [each.strip() for each in text.split(",") if each.strip()]
    if name == "exclude_seen":
        return text == "true"
    if name in WHOLE:
        try:
            return int(text)
        except ValueError:
            raise FormError(place, "is no whole number") from None
    if name in NUMBERS:
        try:
            return float(text)
        except ValueError:
            raise FormError(place, "is no number") from None
    return text


def errors_of(fields: Mapping[str, str]) -> dict[Place, str]:
    """Where in the form the service's errors belong, and what stands there.

    `fields` are paths as in `body.placement.boosts.0.rule.all.1.lt`: that is told at the rule of the first
    boost, with the rest of the path.
    """
    found: dict[Place, str] = {}
    for path, message in fields.items():
        steps = path.split(".")[1:]
        if steps[:1] == ["placement"]:
            steps = steps[1:]
        place, rest = _place(steps)
        found[place] = f"{'.'.join(rest)}: {message}" if rest else message
    return found


def _place(steps: Sequence[str]) -> tuple[Place, Sequence[str]]:
    if steps and steps[0] in TEXTS:
        return (steps[0],), steps[1:]
    if len(steps) >= 3 and steps[0] in PARTS and steps[2] in PARTS[steps[0]]:
        return tuple(steps[:3]), steps[3:]
    return (), steps


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is different in a new placement, one line each; what is empty and what is absent are the same."""
    lines: list[str] = []
    for name in (*TEXTS, *PARTS):
        was, now = _plain(old.get(name)), _plain(new.get(name))
        if was == now:
            continue
        if name in PARTS and was is not None and now is not None:
            lines += _rows(name, was, now)
        elif now is None:
            lines.append(f"{name}: {_short(was)} is taken away")
        elif was is None:
            lines.append(f"{name}: {_short(now)} is new")
        else:
            lines.append(f"{name}: {_short(was)} becomes {_short(now)}")
    return lines


def _rows(name: str, was: list[Any], now: list[Any]) -> list[str]:
    gone = [each for each in was if each not in now]
    new = [each for each in now if each not in was]
    lines = [f"{name}: {_short(each)} is taken away" for each in gone]
    lines += [f"{name}: {_short(each)} is new" for each in new]
    return lines or [f"{name}: in another order"]


def _plain(value: Any) -> Any:
    """Without what says nothing: absent, empty, or a part's default."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value] or None
    if isinstance(value, Mapping) and ("rule" in value or "at_most" in value or "position" in value):
        defaults = {"factor": 1.0, "addition": 0.0, "name": None}
        return {key: each for key, each in value.items() if each != defaults.get(key, ...)}
    return value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Listed:
    """A placement in the list of all."""

    name: str
    version: str
    judged: str
    hit_rate: str
    mrr: str
    problem: str | None


def listed(placements: Sequence[Mapping[str, Any]]) -> list[Listed]:
    """Of what `GET /admin/placements` answers."""
    return [
        Listed(
            each["name"],
            f"{each['number']}, {when(each['at'])}, by {each['by']}",
            _quality(each, "judged"),
            _quality(each, "hit_rate@20"),
            _quality(each, "mrr@20"),
            each["problem"],
        )
        for each in placements
    ]


def _quality(placement: Mapping[str, Any], name: str) -> str:
    quality = placement["live_quality"]
    if quality is None:
        return "not known"
    value = quality[name]
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) and name == "judged" else f"{100 * value:.1f} %"


@dataclass(frozen=True)
class Version:
    """A version in a placement's history."""

    number: int
    at: str
    by: str
    changed: Sequence[str]  # against the one before
    placement: Mapping[str, Any]


def history_of(versions: Sequence[Mapping[str, Any]]) -> list[Version]:
    """Of what `GET /admin/placements/{name}/history` answers, the newest first."""
    before: list[Mapping[str, Any]] = [each["placement"] for each in versions[1:]]
    first = versions and versions[-1]["number"] == 1
    if versions:
        before.append({} if first else versions[-1]["placement"])
    return [
        Version(
            each["number"], when(each["at"]), each["by"], changes(old, each["placement"]), each["placement"]
        )
        for each, old in zip(versions, before, strict=True)
    ]
