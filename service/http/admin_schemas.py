"""What operators' requests and answers look like: validated and documented by FastAPI."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError

from service.catalogue.placements import Placement
from service.live.history import Change
from service.ranking.bundle import NO_CONTROL_CHARACTERS
from service.ranking.item_ids import MAX_ITEM_ID_LENGTH, item_id_problem

MAX_CHANGES = 50_000  # of one call


def _clean(text: str) -> str:
    problem = item_id_problem(text)
    if problem:
        raise PydanticCustomError("id", "the id {problem}", {"problem": problem})
    return text


# The pattern is for the document: what checks it says what is wrong in fewer words.
SHOWN = {"pattern": NO_CONTROL_CHARACTERS}
ItemId = Annotated[
    str, Field(min_length=1, max_length=MAX_ITEM_ID_LENGTH, json_schema_extra=SHOWN), AfterValidator(_clean)
]
Items = Annotated[tuple[ItemId, ...], Field(max_length=MAX_CHANGES), FailFast()]
Version = Annotated[str, Field(min_length=1, max_length=128, json_schema_extra=SHOWN), AfterValidator(_clean)]


PlacementName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")]


Interval = Annotated[
    tuple[float, float] | None,
    Field(description="low and high, at 95 %, over sessions; null while too few were judged to tell"),
]


class ActivateBody(BaseModel):
    """Which version is to go live."""

    model_config = ConfigDict(strict=True, extra="forbid")

    version: Version


class TrialBody(BaseModel):
    """Which version is to be tried out, and on how many sessions."""

    model_config = ConfigDict(strict=True, extra="forbid")

    version: Version
    share: Annotated[float, Field(gt=0, le=1, description="of the sessions")] = 0.1


class HiddenBody(BaseModel):
    """Items that are to be answered no more, and others that may be again; an item of both is hidden."""

    model_config = ConfigDict(strict=True, extra="forbid")

    hide: Items = ()
    unhide: Items = ()


class ProbeAnswer(BaseModel):
    """A probe's good answer."""

    status: Literal["live", "ready"]
    warnings: list[str] | None = Field(
        default=None, description="what an operator should look at, and a balancer need not; absent: nothing"
    )


class QualityAnswer(BaseModel):
    """How a version's answers did live, over all workers, in the sampled sessions; null before any click."""

    judged: int = Field(description="next clicks that an answer was judged by")
    hit_rate_at_20: float | None = Field(serialization_alias="hit_rate@20")
    hit_rate_interval: Interval
    mrr_at_20: float | None = Field(serialization_alias="mrr@20")
    mrr_interval: Interval
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


class BundleAnswer(BaseModel):
    """A bundle that lies in artifacts/bundles; what its manifest says is null where that cannot be read."""

    model_config = ConfigDict(protected_namespaces=())

    version: str
    roles: list[Literal["champion", "previous", "challenger", "shadow"]]
    problem: str | None = Field(
        description="why it cannot be served, as far as manifest and file names tell; files are not read"
    )
    size_bytes: int
    kind: Literal["encoder", "neighbours"] | None
    model: str | None
    created_at: str | None
    n_items: int | None
    metrics: dict[str, float] | None = Field(description="of the test before it was published, in percent")


class BundlesAnswer(BaseModel):
    """All bundles, the newest first, those whose manifest cannot be read last."""

    bundles: list[BundleAnswer]


class ChangesAnswer(BaseModel):
    """Who answered when: the newest changes, the newest first."""

    changes: list[Change]
    unreadable: int = Field(description="lines of deployments.jsonl that tell of no change")


class PlacementQualityAnswer(BaseModel):
    """How what was shown in a placement did, over all workers, in the sampled sessions."""

    judged: int = Field(description="next clicks that it was judged by")
    hit_rate_at_20: float | None = Field(serialization_alias="hit_rate@20")
    hit_rate_interval: Interval
    mrr_at_20: float | None = Field(serialization_alias="mrr@20")
    mrr_interval: Interval


class PlacementVersionAnswer(BaseModel):
    """A placement, as it was from some time on."""

    number: int
    at: float = Field(description="when it was written, in epoch seconds")
    by: str
    placement: Placement


class PlacementAnswer(PlacementVersionAnswer):
    """A placement as it is."""

    name: str
    problem: str | None = Field(description="why nothing is answered in it, if so")
    live_quality: PlacementQualityAnswer | None = Field(description="null while Redis does not answer")


class PlacementsAnswer(BaseModel):
    """Every placement."""

    placements: list[PlacementAnswer]


class PlacementHistoryAnswer(BaseModel):
    """The versions of a placement that are kept, the newest first."""

    name: str
    versions: list[PlacementVersionAnswer]


class PreviewBody(BaseModel):
    """A placement that nobody is answered by yet, and a session: one that is stored, or its items."""

    model_config = ConfigDict(strict=True, extra="forbid")

    placement: Placement
    beside: PlacementName | None = Field(
        default=None, description="the placement to answer beside it; none: as without a placement"
    )
    session_id: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_clean)] | None = None
    items: Annotated[
        tuple[ItemId, ...] | None, Field(max_length=200, description="oldest click first", strict=False)
    ] = None

    @model_validator(mode="after")
    def _one_session(self) -> Self:
        if (self.session_id is None) == (self.items is None):
            raise PydanticCustomError("session", "needs either session_id or items")
        return self


class PreviewedItem(BaseModel):
    """An item, and why it is there."""

    item_id: str
    stage: str
    score: float
    moved_by: list[str]


class PreviewedAnswer(BaseModel):
    """What the session would be answered; nothing of it is counted or remembered."""

    version: str | None
    stage: str
    reason: str
    ignored: list[str]
    items: list[PreviewedItem]


class PreviewAnswer(BaseModel):
    """The same session under the draft, and under what is live."""

    draft: PreviewedAnswer
    live: PreviewedAnswer


class HiddenAnswer(BaseModel):
    """The items that are never answered."""

    hidden: list[str]


class HiddenCountAnswer(BaseModel):
    """What a change of many items leads to."""

    hidden: int = Field(description="how many items are hidden now")
