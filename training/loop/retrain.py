"""retrain.toml: what `run` is to prepare, train, demand and publish; every setting has a default."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from service.ranking.neighbours import NEIGHBOURS
from training.bundling.provenance import BLEND
from training.learn.hyper import check_teachable, resolve_counted
from training.learn.registry import baseline_names, find_model
from training.search.auto import AUTO, BUDGET_MINUTES
from training.search.candidates import CANDIDATES, Resolved, shared_settings


class ConfigError(ValueError):
    """retrain.toml cannot be used; one line for every field that is wrong."""


class _Section(BaseModel):
    # Strict: TOML has types of its own, and "30" is not 30.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataConfig(_Section):
    """Where the clicks are."""

    clicks: str | None = Field(default=None, min_length=1)
    collected: bool = True

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.clicks is None and not self.collected:
            raise ValueError("collected = false leaves no clicks: say in clicks where there are others")
        return self


class PrepareConfig(_Section):
    """Which of the collected clicks are learned from, and how they are cut, filtered and split."""

    days: int = Field(default=30, ge=1)
    test_days: float = Field(default=1, gt=0)
    max_test_days: float = Field(default=14, gt=0)
    test_sessions: int = Field(default=350, ge=0)
    gap_minutes: float = Field(default=30, gt=0)
    min_session_length: int = Field(default=2, ge=2)
    min_item_support: int = Field(default=5, ge=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    min_sessions: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _leaves_days_to_train_on(self) -> Self:
        if self.test_days >= self.days:
            raise ValueError(f"test_days = {self.test_days:g} leaves none of days = {self.days} to train on")
        return self


class TrainConfig(_Section):
    """What is trained, as by the command `train`."""

    model: str = AUTO
    budget_minutes: float = Field(default=BUDGET_MINUTES, gt=0)
    blend: list[str] = []
    student: str | None = None
    seed: int = 1
    set: list[str] = []
    warm_start: bool = True
    refit: bool = True
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    index: Literal["auto", "flat", "hnsw", "ivf-sq", "ivf-pq"] = "auto"
    max_index_mb: float | None = Field(default=None, gt=0)
    repeats: bool = True
    content: bool = True
    cold_share: float | None = Field(default=None, ge=0.01, le=10)

    @field_validator("model")
    @classmethod
    def _can_be_served(cls, model: str) -> str:
        if model not in baseline_names():
            if model != AUTO:
                find_model(model)
        elif model not in NEIGHBOURS:
            raise ValueError(f"{model} cannot be served; of what is counted, {', '.join(NEIGHBOURS)} can")
        return model

    @field_validator("blend")
    @classmethod
    def _can_be_blended(cls, blend: list[str]) -> list[str]:
        for model in blend:
            if model in baseline_names():
                raise ValueError(f"{model} is counted: it has no vectors, and cannot be blended")
            find_model(model)
        if len(blend) == 1 or len(set(blend)) < len(blend):
            raise ValueError(f"{', '.join(blend)}: a blend has two members at least, each named once")
        return blend

    @field_validator("student")
    @classmethod
    def _can_learn(cls, student: str | None) -> str | None:
        if student in baseline_names():
            raise ValueError(f"{student} is counted: it learns from no teacher")
        return student

    @model_validator(mode="after")
    def _settings_fit_the_models(self) -> Self:
        if self.blend and self.model != AUTO:
            raise ValueError(f'model = "{self.model}" beside blend: leave one of them out')
        self.resolved(self.blend or (CANDIDATES if self.model == AUTO else [self.model]))
        if self.student is not None:
            if not self.blend:
                raise ValueError(f'student = "{self.student}" without blend: name the models that teach it')
            for name, (recipe, hyper) in self.resolved([self.student]).items():
                assert recipe is not None, "what is counted is refused"
                check_teachable(name, recipe, hyper)
        return self

    @property
    def makes(self) -> str:
        """What the bundle's model will be called, as far as it is known before training."""
        return self.student or (BLEND if self.blend else self.model)

    def resolved(self, models: Sequence[str]) -> dict[str, Resolved]:
        """Recipe, None for what is counted, and every hyper-parameter of each. Raises `HyperError`."""
        if self.model in NEIGHBOURS:
            return {self.model: (None, resolve_counted(self.model, self.set))}
        return shared_settings(models, self.set)


class GateConfig(_Section):
    """What a new bundle must hold to before it is published."""

    margin_recall: float = Field(default=2.5, ge=0)
    margin_mrr: float = Field(default=1.5, ge=0)
    max_drift: float = Field(default=5.0, ge=0)
    drift_days: int = Field(default=30, ge=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    max_answer_ms: float = Field(default=20, gt=0)
    min_item_coverage: float = Field(default=0.5, ge=0, le=1)
    min_catalogue_coverage: float = Field(default=0.01, ge=0, le=1)
    max_bundle_mb: float = Field(default=2048, gt=0)
    replay_sessions: int = Field(default=1000, ge=1)


class PublishConfig(_Section):
    """In which role a bundle goes live that passed."""

    as_: Literal["champion", "challenger"] = Field(default="champion", alias="as")
    share: float = Field(default=0.1, gt=0, le=1)
    keep: int = Field(default=3, ge=1)


class RetrainConfig(_Section):
    """The whole file."""

    data: DataConfig = DataConfig()
    prepare: PrepareConfig = PrepareConfig()
    train: TrainConfig = TrainConfig()
    gate: GateConfig = GateConfig()
    publish: PublishConfig = PublishConfig()

    @property
    def sha256(self) -> str:
        """Of every setting, in whatever order and with whatever comments the file has them."""
        return hashlib.sha256(self.model_dump_json(by_alias=True).encode()).hexdigest()


def load_config(file: Path) -> RetrainConfig:
    """Read and check a retrain.toml. Raises `ConfigError` naming the file and each field that is wrong."""
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOML's own, or that of bytes which are not UTF-8
        raise ConfigError(f"{file}: not TOML: {error}") from error
    try:
        return RetrainConfig.model_validate(settings)
    except ValidationError as error:
        lines = [
            f"{file}: {_field(detail['loc'])}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines)) from error


def _field(location: tuple[int | str, ...]) -> str:
    """`[train] set`; of a check of a whole section, `[train]`."""
    section, *field = location
    return " ".join([f"[{section}]", *(".".join(map(str, field)),) * bool(field)])
