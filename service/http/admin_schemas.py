"""What operators' requests and answers look like: validated and documented by FastAPI."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field
from pydantic_core import PydanticCustomError

from service.http.schemas import NO_CONTROL_CHARACTERS
from service.ranking.bundle import MAX_ITEM_ID_LENGTH, item_id_problem

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


class ActivateBody(BaseModel):
    """Which version is to go live."""

    model_config = ConfigDict(strict=True, extra="forbid")

    version: Version


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


class HiddenCountAnswer(BaseModel):
    """What a change of many items leads to."""

    hidden: int = Field(description="how many items are hidden now")
