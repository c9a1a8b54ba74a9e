"""Bundles to one bundle: weights, dimensions, a table for repeats, export, evaluation as it is served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from models.sessions import Sessions
from service.ranking.bundle import Bundle
from service.ranking.repeats import RepeatTable
from training.bundling.blend import (
    Blend,
    BlendError,
    best_weights,
    check_members,
    export_blend,
    is_new,
    known,
    what_it_loses,
)
from training.bundling.export import recent_sessions
from training.bundling.indexes import FASTEST, WantedIndex
from training.bundling.provenance import BLEND, new_version, source_commit
from training.bundling.repeats import fit_repeats
from training.data.dataset import Dataset
from training.measure.evaluate import TOP, evaluate

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Blended:
    """A blend that was made, and what there is to say of it; metrics in percent."""

    bundle: Path
    weights: dict[str, float]  # by member
    loses: dict[str, float] = field(default_factory=dict)  # by --dim
    validation: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)

    def told(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "bundle": self.bundle.name,
            "weights": self.weights,
            "dim": self.loses or None,
            "validation": self.validation or None,
            **({"test": self.test} if self.test else {}),
        }


def blended(
    bundles: Sequence[Bundle],
    data: Dataset,
    artifacts: Path,
    *,
    weights: str = "auto",
    dim: int | None = None,
    index: WantedIndex = FASTEST,
    repeats: bool = True,
    test: bool = False,
    version: str | None = None,
    tell: Tell = lambda _: None,
) -> Blended:
    """Leave a verified bundle of `bundles` in `artifacts/bundles/`; without a `version`, named by the time.

    Raises `BlendError`, `BundleError`, `ExportError`, `OSError`.
    """
    check_members(bundles)
    validation = known(bundles[0], data.items, data.validation)
    seen = [bundle.manifest.version for bundle in bundles if not is_new(bundle, data)]
    chosen = _weights(weights, bundles, validation, seen, tell)
    whole = blend = Blend.of(bundles, chosen)
    told = {member.bundle.manifest.version: round(member.weight, 4) for member in blend.members}
    tell("weights: " + ", ".join(f"{version} {weight:g}" for version, weight in told.items()))
    loses: dict[str, float] = {}
    if dim is not None:
        blend = whole.narrowed(dim)
        loses = what_it_loses(whole, blend, validation)
        tell("--dim: " + (", ".join(f"{name} {value:.2f}" for name, value in loses.items()) or "not judged"))
    found: dict[str, dict[str, float]] = {"validation": {}, "test": {}}

    def measure(bundle: Bundle) -> dict[str, float]:
        if data.validation.n_targets:
            metrics = evaluate(bundle, data, data.validation).unmasked
            found["validation"] = {name: metrics[name] for name in (f"recall@{TOP}", f"mrr@{TOP}")}
        if test:
            found["test"] = evaluate(bundle, data, data.test).unmasked
            return found["test"]
        return {f"validation {name}": value for name, value in found["validation"].items()}

    bundle = export_blend(
        blend,
        recent_sessions(known(bundles[0], data.items, data.train_all)),
        artifacts,
        version or new_version(BLEND, artifacts),
        source_commit(),
        data.info.fingerprint,
        measure,
        index,
        partial(_table, whole, validation, seen, tell) if repeats else lambda _: None,
    )
    return Blended(bundle, told, loses, **found)


def _weights(
    wanted: str, bundles: Sequence[Bundle], validation: Sessions, seen: Sequence[str], tell: Tell
) -> list[float]:
    equal = [1.0] * len(bundles)
    if wanted == "equal":
        return equal
    if wanted == "auto":
        if seen:
            tell(f"equal weights: validation cannot choose, {_and(seen)} may have been trained on it")
            return equal
        return best_weights(bundles, validation)
    try:
        weights = [float(each) for each in wanted.split(",")]
    except ValueError:
        raise BlendError(f"--weights {wanted}: neither auto nor equal, nor numbers with commas") from None
    if len(weights) != len(bundles):
        raise BlendError(f"--weights {wanted}: {len(weights)} for {len(bundles)} members")
    return weights


def _table(
    blend: Blend, validation: Sessions, seen: Sequence[str], tell: Tell, bundle: Bundle
) -> RepeatTable | None:
    """Fitted on validation; or what its members' tables add up to, where that would not be fair."""
    if seen:
        table = blend.repeats()
        tell(f"repeats: {'as its members have them' if table else 'its members have none'}")
        return table
    table = fit_repeats(bundle.retriever, bundle.encoder.encode, validation, bundle.manifest.max_length)
    measured = table.measured if table is not None else {}
    tell(
        "repeats: "
        + (
            ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
            or "a score of their own does not pay"
        )
    )
    return table


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
