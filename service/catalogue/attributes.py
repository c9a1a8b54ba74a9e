"""The attributes an item may have: those that everybody knows, and those that a shop declares.

catalogue.toml declares what a shop has of its own, once, for all processes:

    private = ["margin"]
    [attributes]
    colour = "string"
    margin = "number"

What is private is for the shop itself: pages are not told of it. An item is checked against all of them at
its edge, be that HTTP or a file: what is stored is of its kind.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from service.catalogue.places import located
from service.process.settings import Caller, Settings
from service.state.documents import MAX_ITEM_BYTES, encoded, present
from service.state.documents import Patch as Patch
from service.state.documents import Value as Value
from service.state.documents import Values as Values

Kind = Literal["text", "string", "strings", "number", "numbers", "bool", "time"]
FILE = Path("catalogue.toml")
MAX_ITEM_ID_LENGTH = 256  # as `service.ranking.bundle`, which brings with it all that a worker needs
MAX_TEXT_LENGTH = 4096
MAX_STRING_LENGTH = 256
MAX_LIST_LENGTH = 32
MAX_ATTRIBUTES = 64  # that a shop declares
EARLIEST, LATEST = -62_135_596_800, 253_402_300_799  # the years 1 to 9999, in epoch seconds
LARGEST = 1e300  # of a number: sums and squares of prices stay finite
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
RESERVED = frozenset({"item_id", "score", "stage", "moved_by"})  # they stand beside attributes in answers
NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]*(?![\s\S])"  # see `service.http.schemas`
MEANINGS = {NO_CONTROL_CHARACTERS: "without control characters"}

KNOWN: Mapping[str, Kind] = MappingProxyType(
    {
        "title": "text",
        "url": "text",
        "image_url": "text",
        "categories": "strings",
        "price": "number",
        "currency": "string",
        "available": "bool",
        "brand": "string",
        "tags": "strings",
        "published_at": "time",
    }
)

_ItemId = Annotated[str, Meta(min_length=1, max_length=MAX_ITEM_ID_LENGTH, pattern=NO_CONTROL_CHARACTERS)]
_Text = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH, pattern=NO_CONTROL_CHARACTERS)]
_String = Annotated[str, Meta(max_length=MAX_STRING_LENGTH, pattern=NO_CONTROL_CHARACTERS)]
_Entry = Annotated[str, Meta(min_length=1, max_length=MAX_STRING_LENGTH, pattern=NO_CONTROL_CHARACTERS)]
_Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
_Epoch = Annotated[float, Meta(ge=EARLIEST, le=LATEST)]
_TYPES: Mapping[Kind, Any] = {
    "text": _Text,
    "string": _String,
    "strings": Annotated[list[_Entry], Meta(max_length=MAX_LIST_LENGTH)],
    "number": _Number,
    "numbers": Annotated[list[_Number], Meta(max_length=MAX_LIST_LENGTH)],
    "bool": bool,
    "time": _Epoch
    | Annotated[datetime, Meta(tz=True, description="ISO 8601 with a zone, or seconds since 1970")],
}


class CatalogueFileError(ValueError):
    """catalogue.toml declares nothing that can be used; the message names the file and the line."""


class InvalidItem(ValueError):  # noqa: N818
    """An item cannot be stored; `field` is where it is wrong, `item_id` whose it is, as far as is known."""

    def __init__(self, field: str, message: str, item_id: str | None = None) -> None:
        super().__init__(f"{field}: {message}" + (f" (item {item_id})" if item_id is not None else ""))
        self.field = field
        self.message = message
        self.item_id = item_id


class Item(NamedTuple):
    """An item with its values."""

    item_id: str
    values: Values


class _Named(Struct):
    item_id: _ItemId


class Schema:
    """What there may be of an item, by name; the same in every process that reads the same catalogue.toml."""

    def __init__(self, declared: Mapping[str, Kind] | None = None, private: Iterable[str] = ()) -> None:
        """`declared`: what the shop has beside what is known; `private`: what of it all is not for pages."""
        self.kinds: Mapping[str, Kind] = MappingProxyType({**KNOWN, **(declared or {})})
        self.private = frozenset(private)
        # Fields have names of their own: that of an attribute may be a word of Python.
        fields = {f"a{place}": name for place, name in enumerate(self.kinds)}
        types = [
            (field, _TYPES[self.kinds[name]] | None | UnsetType, UNSET) for field, name in fields.items()
        ]
        self.changes_type = msgspec.defstruct(
            "ItemChanges",
            types,
            rename=fields,
            forbid_unknown_fields=True,
            namespace={"__doc__": "The attributes that shall change; null takes one away."},
        )
        self.item_type = msgspec.defstruct(
            "ItemBody",
            [("item_id", _ItemId), *types],
            rename={"item_id": "item_id", **fields},
            forbid_unknown_fields=True,
            namespace={"__doc__": "An item with all its attributes; null, and what is left out, is absent."},
        )
        self._fields = tuple(fields.items())
        self._decode_item = msgspec.json.Decoder(self.item_type).decode
        self._decode_changes = msgspec.json.Decoder(self.changes_type).decode

    @classmethod
    def read(cls, file: Path | None) -> Schema:
        """The schema that a catalogue.toml makes; without one, what is known. Raises `CatalogueFileError`."""
        return cls(*_declared(file)) if file is not None else cls()

    @classmethod
    def of(cls, settings: Settings) -> Schema:
        """The schema of these settings: of their file, else of catalogue.toml in the working directory."""
        return cls.read(settings.catalogue_file or (FILE if FILE.exists() else None))

    def kinds_for(self, caller: Caller) -> Mapping[str, Kind]:
        """What there is for whoever asks."""
        if caller != "public" or not self.private:
            return self.kinds
        return {name: kind for name, kind in self.kinds.items() if name not in self.private}

    def shown_to(self, caller: Caller, values: Values) -> Values:
        """What of an item whoever asks may see."""
        if caller != "public" or not self.private:
            return values
        return {name: value for name, value in values.items() if name not in self.private}

    def checked(self, attributes: object, place: str, item_id: str | None = None) -> Values:
        """Attributes by name, as Python's own types. Raises `InvalidItem`."""
        try:
            values = msgspec.convert(attributes, self.changes_type)
        except msgspec.ValidationError as error:
            raise _invalid(error, place, item_id) from None
        return self._present(values, place, item_id)

    def item(self, given: object, place: str) -> Item:
        """An item, its id and its attributes by name. Raises `InvalidItem`."""
        try:
            item = msgspec.convert(given, self.item_type)
        except msgspec.ValidationError as error:
            raise _invalid(error, place, _name_of(given)) from None
        item_id: str = item.item_id  # type: ignore[attr-defined]
        return Item(item_id, self._present(item, place, item_id))

    def read_item(self, content: bytes | msgspec.Raw, place: str) -> Item:
        """An item, JSON that holds `item_id` beside its attributes. Raises `InvalidItem`."""
        try:
            item = self._decode_item(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _invalid(error, place, _name_in(content)) from None
        item_id: str = item.item_id  # type: ignore[attr-defined]
        return Item(item_id, self._present(item, place, item_id))

    def read_changes(self, content: bytes | msgspec.Raw, place: str) -> Patch:
        """Attributes to change, JSON. Raises `InvalidItem`."""
        try:
            changes = self._decode_changes(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _invalid(error, place, None) from None
        return self._changed(changes, place, None)

    def _present(self, item: Struct, place: str, item_id: str | None) -> Values:
        return present(self._changed(item, place, item_id))

    def _changed(self, item: Struct, place: str, item_id: str | None) -> Patch:
        """What is set, with None for what is as good as absent, so that all that is stored survives a CSV."""
        changes: dict[str, Value | None] = {}
        for field, name in self._fields:
            value = getattr(item, field)
            if value is UNSET:
                continue
            if isinstance(value, datetime):
                value = value.timestamp()
                if not EARLIEST <= value <= LATEST:  # a zone may move it out
                    raise InvalidItem(f"{place}.{name}", "Expected a time of the years 1 to 9999", item_id)
            elif value != value:
                raise InvalidItem(f"{place}.{name}", "Expected a number, got NaN", item_id)
            elif isinstance(value, list):
                value = _checked_list(value, f"{place}.{name}", item_id)
            changes[name] = None if value == "" else value
        size = len(encoded(changes))
        if size > MAX_ITEM_BYTES:
            raise InvalidItem(place, f"is {size} bytes of JSON: at most {MAX_ITEM_BYTES}", item_id)
        return changes


def _checked_list(values: list[Any], place: str, item_id: str | None) -> list[Any] | None:
    """Each name once, in order; None for none."""
    for number, value in enumerate(values):
        if value != value:
            raise InvalidItem(f"{place}.{number}", "Expected a number, got NaN", item_id)
    # Of numbers the place may matter, as in an embedding.
    is_of_names = bool(values) and isinstance(values[0], str)
    return (list(dict.fromkeys(values)) if is_of_names else values) or None


def _invalid(error: Exception, place: str, item_id: str | None) -> InvalidItem:
    if isinstance(error, msgspec.ValidationError):
        return InvalidItem(*located(error, place, MEANINGS), item_id)
    return InvalidItem(place, f"not JSON: {error}", item_id)


def _name_of(given: object) -> str | None:
    """Whose attributes these are, if that much is right."""
    try:
        return msgspec.convert(given, _Named).item_id
    except msgspec.ValidationError:
        return None


def _name_in(content: bytes | msgspec.Raw) -> str | None:
    """Whose attributes these are, if that much can be read."""
    try:
        return msgspec.json.decode(content, type=_Named).item_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _declared(file: Path) -> tuple[dict[str, Kind], list[str]]:
    try:
        text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogueFileError(f"{file}: {error}") from None
    if unknown := sorted(content.keys() - {"attributes", "private"}):
        message = "unknown: there are [attributes], and `private` above them, alone"
        raise CatalogueFileError(f"{_at(file, text, unknown[0])}: {message}")
    attributes = content.get("attributes", {})
    if not isinstance(attributes, dict):
        raise CatalogueFileError(f"{_at(file, text, 'attributes')}: must be a table: [attributes]")
    if len(attributes) > MAX_ATTRIBUTES:
        raise CatalogueFileError(f"{file}: attributes: {len(attributes)} of them: at most {MAX_ATTRIBUTES}")
    for name, kind in attributes.items():
        if wrong := _what_is_wrong(name, kind):
            raise CatalogueFileError(f"{_at(file, text, name)}: {wrong}")
    private = content.get("private", [])
    if not isinstance(private, list):
        raise CatalogueFileError(f"{_at(file, text, 'private')}: must be a list of names")
    for name in private:
        if name not in KNOWN and name not in attributes:
            raise CatalogueFileError(f"{_at(file, text, 'private')}: there is no attribute {name!r}")
    return attributes, private


def _what_is_wrong(name: str, kind: object) -> str | None:
    if not NAME.fullmatch(name):
        return "a name is of a-z, 0-9 and _, begins with a letter, and has at most 64 of them"
    if name in KNOWN:
        return f"is known already, as {KNOWN[name]}"
    if name in RESERVED:
        return "this name is taken by what answers say of an item"
    if kind not in get_args(Kind):
        return f"must be one of {', '.join(get_args(Kind))}"
    return None


def _at(file: Path, text: str, name: str) -> str:
    """The file, the line and the name, as far as the name is written plainly."""
    written = re.compile(rf"""^\s*\[?["']?{re.escape(name)}["']?\s*[=\].]""")
    line = next((number for number, line in enumerate(text.splitlines(), 1) if written.match(line)), None)
    return f"{file}:{line}: {name}" if line is not None else f"{file}: {name}"
