"""What shoppers' requests and answers look like: decoded, checked, encoded and documented by these alone.

Strict in a body: "1" is no number, true is no number, an unknown field is an error. What is left unset is
left out of an answer.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from service.catalogue.placements import STEERING
from service.ranking.bundle import NO_CONTROL_CHARACTERS
from service.ranking.item_ids import MAX_ITEM_ID_LENGTH
from service.recommender import DEFAULT_K, MAX_K

MAX_BATCH = 100
MAX_ITEMS = 200
MAX_EXCLUDE = 500
MAX_FIELDS = 128
# Not `$`, which Python also finds before a last line feed, nor `\Z`, which JSON Schema does not know.
CLICK_TYPE = r"^[A-Za-z0-9_-]{1,32}(?![\s\S])"
PLACEMENT = r"^[a-z0-9_-]{1,32}(?![\s\S])"
PATTERN_MEANINGS = {
    NO_CONTROL_CHARACTERS: "without control characters",
    CLICK_TYPE: "of 1 to 32 letters, digits, '_' and '-'",
    PLACEMENT: "of 1 to 32 letters a-z, digits, '_' and '-'",
}

ItemId = Annotated[str, Meta(min_length=1, max_length=MAX_ITEM_ID_LENGTH, pattern=NO_CONTROL_CHARACTERS)]
SessionId = Annotated[str, Meta(min_length=1, max_length=128, pattern=NO_CONTROL_CHARACTERS)]
EventId = Annotated[str, Meta(min_length=1, max_length=128, pattern=NO_CONTROL_CHARACTERS)]
Version = Annotated[str, Meta(min_length=1, max_length=128, pattern=NO_CONTROL_CHARACTERS)]
RecommendationId = Annotated[str, Meta(min_length=1, max_length=161, pattern=NO_CONTROL_CHARACTERS)]
ClickType = Annotated[str, Meta(pattern=CLICK_TYPE)]
Timestamp = Annotated[float, Meta(ge=0)]
K = Annotated[int, Meta(ge=1, le=MAX_K, description="how many items")]
Exclude = Annotated[list[ItemId], Meta(max_length=MAX_EXCLUDE, description="items not to answer")]
ExcludeSeen = Annotated[
    bool | None, Meta(description="leave out what the session clicked; default: as deployed")
]
AskedVersion = Annotated[Version | None, Meta(description="a loaded version; default: the live one")]
Explain = Annotated[
    bool, Meta(description="say what the model saw, why this stage answered, and why each item is there")
]
WantedK = Annotated[
    Annotated[int, Meta(ge=1, le=MAX_K)] | UnsetType,
    Meta(description="how many items; default: as the placement says, else 20"),
]
AskedPlacement = Annotated[
    Annotated[str, Meta(pattern=PLACEMENT)] | None,
    Meta(description="where the items are to be shown; what the request says itself goes before it"),
]


Fields = Annotated[
    str,
    Meta(description="attributes to answer with each item, separated by commas", examples=["title,price"]),
]
FilterText = Annotated[
    str | None, Meta(description="a rule in JSON: only items that it lets through are answered")
]
Category = Annotated[
    list[Annotated[str, Meta(max_length=256)]],
    Meta(max_length=MAX_EXCLUDE, description="only items of this category, or of one of them"),
]
Available = Annotated[bool | None, Meta(description="true: only items that are said to be available")]
PriceMax = Annotated[float | None, Meta(description="only items whose price is known, and not above")]
FilterBody = Annotated[
    Raw | UnsetType,
    Meta(
        description="a rule: only items that it lets through are answered",
        extra_json_schema={"type": ["object", "null"]},
    ),
]


def _part(of: str, description: str) -> Meta:
    """One of a placement's parts, whose schema and validation are those of placements."""
    schema = {"type": "array", "items": {"$ref": f"#/components/schemas/{of}"}}
    return Meta(description=f"{description}: see docs/placements.md", extra_json_schema=schema)


class SessionPath(Struct):
    session_id: SessionId


class ItemPath(Struct):
    item_id: ItemId


class CatalogueQuery(Struct, kw_only=True):
    """What every query of items may want of the catalogue."""

    fields: Fields = ""
    filter: FilterText = None
    category: Category = []
    available: Available = None
    price_max: PriceMax = None


class KQuery(CatalogueQuery, kw_only=True):
    k: K = DEFAULT_K


class ClickQuery(CatalogueQuery, kw_only=True):
    recommend: Annotated[K | None, Meta(description="also answer this many items")] = None
    placement: Annotated[
        Annotated[str, Meta(pattern=PLACEMENT)] | None,
        Meta(description="also answer, as this placement says"),
    ] = None


class RecommendQuery(CatalogueQuery, kw_only=True):
    session_id: SessionId
    k: WantedK = UNSET
    exclude: Exclude = []
    exclude_seen: ExcludeSeen = None
    model: AskedVersion = None
    placement: AskedPlacement = None
    explain: Explain = False


class ClickBody(Struct, forbid_unknown_fields=True):
    """One click."""

    item_id: Annotated[ItemId, Meta(examples=["sku-1042"])]
    event_id: Annotated[
        EventId | None,
        Meta(description="the same id again is not stored again", examples=["3f1c9a52-7"]),
    ] = None
    timestamp: Annotated[Timestamp | None, Meta(description="epoch seconds; default: the server's clock")] = (
        None
    )
    type: ClickType = "click"
    recommendation_id: Annotated[
        RecommendationId | None,
        Meta(description="of the answer that the item was clicked in: counts as feedback on its version"),
    ] = None


class BatchClickBody(ClickBody, forbid_unknown_fields=True, kw_only=True):
    """One click of a batch."""

    session_id: Annotated[SessionId, Meta(examples=["visitor-7"])]


class RecommendBody(Struct, forbid_unknown_fields=True):
    """A session that is not to be stored."""

    items: Annotated[
        list[ItemId],
        Meta(
            max_length=MAX_ITEMS,
            description="item ids, oldest click first",
            examples=[["sku-1042", "sku-88"]],
        ),
    ]
    k: WantedK = UNSET
    exclude: Exclude = []
    exclude_seen: ExcludeSeen = None
    model: AskedVersion = None
    placement: AskedPlacement = None
    explain: Explain = False
    fields: Annotated[
        list[str], Meta(max_length=MAX_FIELDS, description="attributes to answer with each item")
    ] = []
    filter: FilterBody = UNSET
    boosts: Annotated[Raw | UnsetType, _part("BoostPart", "what matches is worth more, or less")] = UNSET
    bury: Annotated[Raw | UnsetType, _part("BuryPart", "what matches stands behind all others")] = UNSET
    promotions: Annotated[Raw | UnsetType, _part("PromotionPart", "at least so many percent match")] = UNSET
    caps: Annotated[Raw | UnsetType, _part("CapPart", "at most so many share a value")] = UNSET
    mmr: Annotated[
        Raw | UnsetType,
        Meta(
            description="λ: 1 is relevance alone, 0 only how unlike items are",
            extra_json_schema={"type": ["number", "null"], "minimum": 0, "maximum": 1},
        ),
    ] = UNSET
    pins: Annotated[Raw | UnsetType, _part("PinPart", "items at positions")] = UNSET

    @property
    def steering(self) -> dict[str, Raw]:
        """What it says of steering, as it stood in the body; that is for the shop's own server to say."""
        parts = ((name, getattr(self, name)) for name in STEERING)
        return {name: part for name, part in parts if part is not UNSET}


class ScoredItem(Struct, gc=False):
    """An item; scores compare within one answer and one stage only, and are 0 in stage popular."""

    item_id: str
    score: float
    fields: Annotated[
        Raw | UnsetType,
        Meta(
            description="if any were asked for: each of them, null where the catalogue does not know it",
            extra_json_schema={"type": "object"},
        ),
    ] = UNSET


class ExplainedItem(Struct, gc=False):
    """Why an item is there."""

    item_id: str
    stage: Annotated[
        Literal["neighbours", "model", "trending", "popular", "pinned"],
        Meta(description="what found it; pinned: only that it is pinned"),
    ]
    score: float
    moved_by: Annotated[list[str], Meta(description="the placement's rules that match or moved it")]


class Explanation(Struct):
    """With explain=true."""

    reason: str
    encoded: Annotated[list[str], Meta(description="the items that the model saw, oldest first")]
    items: Annotated[list[ExplainedItem], Meta(description="those answered, in the same order")]


class RecommendationAnswer(Struct, kw_only=True):
    """The items to show, best first."""

    session_id: Annotated[str | UnsetType, Meta(description="absent for a session that is not stored")] = (
        UNSET
    )
    recommendation_id: str
    version: Annotated[str | None, Meta(description="the live bundle; null before the first is published")]
    stage: Annotated[
        Literal["neighbours", "model", "trending", "popular"],
        Meta(description="what answered; a stage short of k is filled up by those after it"),
    ]
    degraded: Annotated[bool, Meta(description="Redis did not answer: made without the session")]
    ignored: Annotated[list[str], Meta(description="items of the session that the bundle does not know")]
    items: list[ScoredItem]
    explanation: Annotated[Explanation | UnsetType, Meta(description="with explain=true")] = UNSET


class ClickAnswer(Struct):
    """The click is stored."""

    session_id: str
    length: Annotated[int, Meta(description="clicks now in the session")]
    duplicate: Annotated[bool, Meta(description="this event_id was already stored")]
    recommendations: Annotated[
        RecommendationAnswer | UnsetType | None,
        Meta(description="with ?recommend=k; null when no model is published and nothing is trending"),
    ] = UNSET


class EventStatus(Struct, omit_defaults=True):
    """The outcome of one click of a batch: 200, or 422, 429 or 503 with a detail."""

    status: Literal[200, 422, 429, 503]
    session_id: str | UnsetType = UNSET
    length: int | UnsetType = UNSET
    duplicate: bool | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class BatchAnswer(Struct):
    """One status per click, in the order they were sent."""

    events: list[EventStatus]


class StoredClick(Struct):
    """A click of a session."""

    item_id: str
    timestamp: float
    type: str
    event_id: str | None


class SessionAnswer(Struct):
    """All that is stored of a session."""

    session_id: str
    clicks: list[StoredClick]


class ItemsAnswer(Struct):
    """Items, best first."""

    items: list[ScoredItem]


class SimilarAnswer(Struct):
    """The items nearest to one item."""

    item_id: str
    version: str
    items: list[ScoredItem]


class FieldError(Struct):
    """One field that is wrong; `field` is its path, as in body.item_id or query.k."""

    field: str
    message: str
    item_id: Annotated[str | UnsetType, Meta(description="of an item that is wrong, where it has one")] = (
        UNSET
    )


class ProblemDocument(Struct):
    """RFC 9457; `type` names the kind of problem for programs, `detail` is for people."""

    type: Annotated[str, Meta(examples=["urn:nextclick:problem:invalid-input"])]
    title: Annotated[str, Meta(examples=["Unprocessable Entity"])]
    status: Annotated[int, Meta(examples=[422])]
    detail: Annotated[str, Meta(examples=["body.item_id: Field required"])]
    errors: Annotated[list[FieldError] | UnsetType, Meta(description="on 422: the fields that are wrong")] = (
        UNSET
    )
    loaded: Annotated[
        list[str] | UnsetType, Meta(description="on unknown-model: the versions that can be asked for")
    ] = UNSET
    known: Annotated[
        list[str] | UnsetType, Meta(description="on unknown-placement: the placements that there are")
    ] = UNSET
