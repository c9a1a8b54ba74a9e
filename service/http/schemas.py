"""What requests and answers look like: requests are validated by these, answers only documented."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from service.ranking.bundle import MAX_ITEM_ID_LENGTH, item_id_problem
from service.recommender import DEFAULT_K, MAX_K

MAX_BATCH = 100
MAX_ITEMS = 200
MAX_EXCLUDE = 500


def _clean(text: str) -> str:
    problem = item_id_problem(text)
    if problem:
        raise PydanticCustomError("id", "the id {problem}", {"problem": problem})
    return text


ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ITEM_ID_LENGTH), AfterValidator(_clean)]
SessionId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_clean)]
EventId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_clean)]
Version = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_clean)]
RecommendationId = Annotated[str, Field(min_length=1, max_length=161), AfterValidator(_clean)]
ClickType = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
K = Annotated[int, Field(ge=1, le=MAX_K, description="how many items")]
Exclude = Annotated[list[ItemId], Field(max_length=MAX_EXCLUDE, description="items not to answer")]
ExcludeSeen = Annotated[
    bool | None, Field(description="leave out what the session clicked; default: as deployed")
]
Explain = Annotated[bool, Field(description="say what the model saw, and why this stage answered")]


class Body(BaseModel):
    """Strict: "1" is no number, true is no number, an unknown field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ClickBody(Body):
    """One click."""

    item_id: ItemId = Field(examples=["sku-1042"])
    event_id: EventId | None = Field(
        None, description="the same id again is not stored again", examples=["3f1c9a52-7"]
    )
    timestamp: float | None = Field(None, ge=0, description="epoch seconds; default: the server's clock")
    type: ClickType = "click"
    recommendation_id: RecommendationId | None = Field(
        None, description="of the answer that the item was clicked in: counts as feedback on its version"
    )


class BatchClickBody(ClickBody):
    """One click of a batch."""

    session_id: SessionId = Field(examples=["visitor-7"])


class RecommendBody(Body):
    """A session that is not to be stored."""

    items: Annotated[list[ItemId], Field(max_length=MAX_ITEMS)] = Field(
        description="item ids, oldest click first", examples=[["sku-1042", "sku-88"]]
    )
    k: K = DEFAULT_K
    exclude: Exclude = []
    exclude_seen: ExcludeSeen = None
    model: Version | None = None
    explain: Explain = False


class ActivateBody(Body):
    """Which version is to go live."""

    version: Version


class ScoredItem(BaseModel):
    """An item; scores compare within one answer and one stage only, and are 0 in stage popular."""

    item_id: str
    score: float


class Explanation(BaseModel):
    """With explain=true."""

    reason: str
    encoded: list[str] = Field(description="the items that the model saw, oldest first")


class RecommendationAnswer(BaseModel):
    """The items to show, best first."""

    session_id: str | None = Field(None, description="absent for a session that is not stored")
    recommendation_id: str
    version: str | None = Field(description="the live bundle; null before the first is published")
    stage: Literal["neighbours", "model", "trending", "popular"] = Field(
        description="what answered; a stage short of k is filled up by those after it"
    )
    degraded: bool = Field(description="Redis did not answer: made without the session")
    ignored: list[str] = Field(description="items of the session that the bundle does not know")
    items: list[ScoredItem]
    explanation: Explanation | None = Field(None, description="with explain=true")


class ClickAnswer(BaseModel):
    """The click is stored."""

    session_id: str
    length: int = Field(description="clicks now in the session")
    duplicate: bool = Field(description="this event_id was already stored")
    recommendations: RecommendationAnswer | None = Field(
        None, description="with ?recommend=k; null when no model is published and nothing is trending"
    )


class EventStatus(BaseModel):
    """The outcome of one click of a batch: 200, or 422 or 503 with a detail."""

    status: Literal[200, 422, 503]
    session_id: str | None = None
    length: int | None = None
    duplicate: bool | None = None
    detail: str | None = None


class BatchAnswer(BaseModel):
    """One status per click, in the order they were sent."""

    events: list[EventStatus]


class StoredClick(BaseModel):
    """A click of a session."""

    item_id: str
    timestamp: float
    type: str
    event_id: str | None


class SessionAnswer(BaseModel):
    """All that is stored of a session."""

    session_id: str
    clicks: list[StoredClick]


class ItemsAnswer(BaseModel):
    """Items, best first."""

    items: list[ScoredItem]


class SimilarAnswer(ItemsAnswer):
    """The items nearest to one item."""

    item_id: str
    version: str


class QualityAnswer(BaseModel):
    """How a version's answers did live, over all workers, in the sampled sessions; null before any click."""

    judged: int = Field(description="next clicks that an answer was judged by")
    hit_rate_at_20: float | None = Field(serialization_alias="hit_rate@20")
    mrr_at_20: float | None = Field(serialization_alias="mrr@20")
    feedback: int = Field(description="clicks that named one of its recommendations, of all sessions")


class ModelAnswer(BaseModel):
    """A loaded version."""

    model_config = ConfigDict(protected_namespaces=())

    version: str
    role: Literal["champion", "challenger", "shadow"]
    live_quality: QualityAnswer | None = Field(description="null while Redis does not answer")
    kind: Literal["encoder", "neighbours"]
    model: str
    head: str | None = Field(description="null for neighbours, as are dim and index")
    created_at: str
    n_items: int
    dim: int | None
    index: dict[str, str | float | None] | None
    metrics: dict[str, float]


class ModelsAnswer(BaseModel):
    """What this worker serves, and what deployment.json asks for."""

    loaded: list[ModelAnswer]
    champion: str | None
    previous: str | None
    challenger: str | None
    challenger_share: float
    shadow: str | None
    shadow_share: float
    exclude_seen: bool
    hidden: int = Field(description="how many items are hidden")
    error: str | None = Field(description="why what was deployed last is not what is served")
    refused: dict[str, str] = Field(description="versions that cannot be served, and why")


class HiddenAnswer(BaseModel):
    """The items that are never answered."""

    hidden: list[str]
