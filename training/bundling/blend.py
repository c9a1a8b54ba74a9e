"""A bundle of bundles: the members' unit vectors, weighted and laid side by side, are again one unit vector.

With session vectors s_i, item vectors v_i and weights w_i that add up to 1, [√w_1 s_1; √w_2 s_2; …] is of
length 1, and its product with [√w_1 v_1; √w_2 v_2; …] is the weighted sum of the members' cosines. So a blend
is one graph, one index and one vector, and the service cannot tell it from any other encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper, numpy_helper

from models.base import Hyper, SessionEncoder
from models.sessions import Sessions
from service.live.deployment import bundle_path
from service.ranking.bundle import (
    ENCODER,
    ENCODER_DATA,
    INDEX,
    ITEMS,
    Bundle,
    write_items,
    write_lookup,
    write_manifest,
)
from service.ranking.encoder import Encoder
from service.ranking.ranker import newest
from service.ranking.repeats import MOST, RepeatTable
from service.ranking.retriever import Items, Vectors
from training.bundling.content import newest_cases
from training.bundling.export import (
    PARITY_SESSIONS,
    VECTOR_TOLERANCE,
    ExportError,
    assembled,
    check_tells_apart,
    finish,
    manifest_of,
    parity_batches,
    proven,
    right_padded,
    served_item_vectors,
    served_session_vectors,
)
from training.bundling.indexes import TIE, TOP, NoIndexFits, WantedIndex, write_index
from training.bundling.provenance import BLEND, Provenance
from training.data.dataset import Dataset

STEPS = (1, 2, 4)  # weights that are tried are in such proportions
FEW_MEMBERS = 4  # of more, one at a time is weighted otherwise
SCORES_AT_ONCE = 1 << 24
INLINE_BYTES = 256  # constants that shapes follow from stay in the graph; tables go beside it
SURE = 1.0  # standard errors by which other weights must be better than equal ones


class BlendError(ValueError):
    """These bundles cannot be blended; the message says why."""


@dataclass(frozen=True)
class Member:
    """A bundle, and how much its cosine counts."""

    bundle: Bundle
    weight: float

    def told(self, number: int) -> dict[str, Hyper]:
        """What the blend's manifest says of it."""
        manifest = self.bundle.manifest
        name = f"member {number}"
        return {
            name: manifest.version,
            f"{name} weight": round(self.weight, 6),
            f"{name} model": manifest.model,
            f"{name} commit": manifest.source_commit,
            f"{name} data": manifest.data_fingerprint,
        }


@dataclass(frozen=True)
class Blend:
    """Members whose weights add up to 1, by version: however they are ordered, the bundle is the same.

    With a `projection` (D, N), vectors are mapped by it and brought to length 1 again.
    """

    members: tuple[Member, ...]
    projection: Vectors | None = None

    @classmethod
    def of(cls, bundles: Sequence[Bundle], weights: Sequence[float]) -> Blend:
        """Raises `BlendError`."""
        if not all(weight > 0 and np.isfinite(weight) for weight in weights):
            raise BlendError("a weight is a number above 0: leave out a member that shall not count")
        total = sum(weights)
        members = [Member(bundle, weight / total) for bundle, weight in zip(bundles, weights, strict=True)]
        return cls(tuple(sorted(members, key=lambda member: member.bundle.manifest.version)))

    @property
    def max_length(self) -> int:
        return max(member.bundle.manifest.max_length for member in self.members)

    def vectors(self) -> Vectors:
        """(n, D) unit vectors of the items; of a member with an index of codes, as these decode."""
        return self._joined([_units(member.bundle.retriever.vectors()) for member in self.members])

    def encode(self, sessions: Items) -> Vectors:
        """(B, D) unit vectors of (B, L) right-padded sessions, by the members' own encoders."""
        encoded = []
        for member in self.members:
            encoder = member.bundle.encoder
            encoded.append(encoder.encode_padded(np.ascontiguousarray(newest(sessions, encoder.max_length))))
        return self._joined(encoded)

    def narrowed(self, dim: int) -> Blend:
        """The same in `dim` dimensions, those in which the item vectors are longest. Raises `BlendError`."""
        vectors = self.vectors().astype(np.float64)
        if not 1 <= dim < vectors.shape[1]:
            raise BlendError(f"--dim {dim}: these members have {vectors.shape[1]} dimensions: choose fewer")
        _, directions = np.linalg.eigh(vectors.T @ vectors)  # the longest last
        return Blend(self.members, directions[:, ::-1][:, :dim].astype(np.float32))

    def _joined(self, parts: Sequence[Vectors]) -> Vectors:
        weighted = [
            np.float32(np.sqrt(member.weight)) * part
            for member, part in zip(self.members, parts, strict=True)
        ]
        joined = np.concatenate(weighted, axis=1)
        return joined if self.projection is None else _units(joined @ self.projection)

    def hyperparameters(self) -> dict[str, Hyper]:
        """What the manifest says of it, flat, so that any service reads it."""
        told: dict[str, Hyper] = {"members": len(self.members), "refit": not self.is_new_to_validation}
        for number, member in enumerate(self.members, start=1):
            told |= member.told(number)
        return told

    @property
    def is_new_to_validation(self) -> bool:
        """Whether no member is known to have been trained on the validation sessions, or may have been."""
        return all(is_new_to_validation(member.bundle) for member in self.members)

    def repeats(self) -> RepeatTable | None:
        """The members' tables, weighted: that is what their scores add up to."""
        tables = [
            (member.weight, member.bundle.manifest.repeat)
            for member in self.members
            if member.bundle.manifest.repeat is not None
        ]
        if not tables:
            return None
        by_distance = sum(weight * _as_long_as(table.by_distance) for weight, table in tables)
        by_count = sum(weight * _as_long_as(table.by_count) for weight, table in tables)
        return RepeatTable(
            by_distance=tuple(np.round(by_distance, 6).tolist()),
            by_count=tuple(np.round(by_count, 6).tolist()),
        )


class Reference(Protocol):
    """What the bundle of a blend must answer as."""

    @property
    def max_length(self) -> int: ...

    def vectors(self) -> Vectors:
        """(n, D) unit vectors of the items."""
        ...

    def encode(self, sessions: Items) -> Vectors:
        """(B, D) unit vectors of (B, L) right-padded sessions."""
        ...


@dataclass(frozen=True)
class TrainedBlend:
    """The models that a blend's members were exported from, in its order, with their weights."""

    models: tuple[tuple[SessionEncoder, float], ...]

    @property
    def max_length(self) -> int:
        return max(model.max_length for model, _ in self.models)

    def vectors(self) -> Vectors:
        """See `Reference`."""
        parts = [np.float32(np.sqrt(weight)) * served_item_vectors(model) for model, weight in self.models]
        return np.concatenate(parts, axis=1)

    def encode(self, sessions: Items) -> Vectors:
        """See `Reference`."""
        parts = []
        for model, weight in self.models:
            rows = [row[row > 0].tolist() for row in newest(sessions, model.max_length)]
            parts.append(np.float32(np.sqrt(weight)) * served_session_vectors(model, rows))
        return np.concatenate(parts, axis=1)


def members_told(told: Mapping[str, Hyper | None]) -> list[tuple[str, float]]:
    """Model and weight of each member, from a blend's manifest: see `Member.told`."""
    numbers = [name.removesuffix(" model") for name in told if name.endswith(" model")]
    return [(str(told[f"{number} model"]), float(str(told[f"{number} weight"]))) for number in numbers]


def check_members(bundles: Sequence[Bundle]) -> None:
    """Refuse what cannot be blended, before anything is computed. Raises `BlendError`, `BundleError`."""
    if len(bundles) < 2:
        raise BlendError("a blend has two members at least: name --bundle once for each")
    versions = [bundle.manifest.version for bundle in bundles]
    for version in versions:
        if versions.count(version) > 1:
            raise BlendError(f"{version} is named twice: --weights says how much a member counts")
    first = bundles[0]
    for bundle in bundles:
        if not bundle.is_cosine:
            raise BlendError(
                f"{bundle.manifest.version}: {bundle.manifest.model} ranks by neighbours: it has no vectors"
            )
        if bundle.items.same(first.items):
            continue
        differ = len(set(bundle.items) ^ set(first.items))
        what = f"{differ} items are in one of them alone" if differ else "the same items in another order"
        raise BlendError(
            f"{bundle.manifest.version} and {first.manifest.version} have different item tables ({what}):"
            " train all members on the same prepared data"
        )


def is_new_to_validation(bundle: Bundle) -> bool:
    """Whether its manifest says that it was not trained on the validation sessions; older ones do not say."""
    return bundle.manifest.hyperparameters.get("refit") is False


def is_new(bundle: Bundle, data: Dataset) -> bool:
    """Whether it surely was not trained on the validation sessions of `data`."""
    return is_new_to_validation(bundle) and bundle.manifest.data_fingerprint == data.info.fingerprint


def known(bundle: Bundle, item_ids: Sequence[str], sessions: Sessions) -> Sessions:
    """Sessions of `item_ids` in a bundle's own numbers, without clicks on what it does not know."""
    index_of = np.array([0, *bundle.index_of.of(item_ids)], dtype=np.int32)
    items = index_of[sessions.items]
    offsets = np.concatenate([[0], np.cumsum(items > 0)])[sessions.offsets]
    return Sessions(items[items > 0], offsets.astype(np.int64), bundle.manifest.n_items)


def best_weights(bundles: Sequence[Bundle], validation: Sessions) -> list[float]:
    """Those with the highest MRR@20 on the newest cases; equal ones, unless others are better by more than
    chance.
    """
    equal = [1.0] * len(bundles)
    prefixes, targets = newest_cases(validation)
    if not prefixes:
        return equal
    tried = [equal, *_proportions(len(bundles))]
    blends = [Blend(tuple(Member(bundle, 1.0) for bundle in bundles[i : i + 1])) for i in range(len(bundles))]
    tables = [blend.vectors() for blend in blends]
    found: list[list[Vectors]] = [[] for _ in tried]
    at_once = max(1, SCORES_AT_ONCE // len(tables[0]) // len(bundles))
    longest = max(blend.max_length for blend in blends)
    for start in range(0, len(prefixes), at_once):
        sessions = right_padded(prefixes[start : start + at_once], longest)
        scores = np.array(
            [blend.encode(sessions) @ table.T for blend, table in zip(blends, tables, strict=True)]
        )  # (members, B, n)
        for number, weights in enumerate(tried):
            mixed = np.einsum("m,mbn->bn", np.array(weights, np.float32), scores)
            found[number].append(_reciprocals(mixed, targets[start : start + at_once]))
    reciprocals = [np.concatenate(each) for each in found]
    best = max(range(len(tried)), key=lambda number: float(reciprocals[number].mean()))
    more = reciprocals[best] - reciprocals[0]
    return tried[best] if more.sum() > SURE * np.sqrt(np.square(more).sum()) else equal


def what_it_loses(whole: Blend, narrow: Blend, validation: Sessions) -> dict[str, float]:
    """MRR@20 and Recall@20 of both on the newest cases, and how many of the 20 best are the same; percent."""
    prefixes, targets = newest_cases(validation)
    if not prefixes:
        return {}
    tables = [blend.vectors() for blend in (whole, narrow)]
    reciprocals: list[list[Vectors]] = [[], []]
    shared = []
    at_once = max(1, SCORES_AT_ONCE // len(tables[0]))
    for start in range(0, len(prefixes), at_once):
        sessions = right_padded(prefixes[start : start + at_once], whole.max_length)
        tops = []
        for number, blend in enumerate((whole, narrow)):
            scores = blend.encode(sessions) @ tables[number].T
            reciprocals[number].append(_reciprocals(scores, targets[start : start + at_once]))
            tops.append(np.argsort(-scores, axis=1, kind="stable")[:, :TOP])
        shared += [len(set(one) & set(other)) / len(one) for one, other in zip(*map(list, tops), strict=True)]
    told = {}
    for name, each in zip(("without", "with"), reciprocals, strict=True):
        values = np.concatenate(each)
        told[f"mrr@{TOP} {name} --dim"] = 100 * float(values.mean())
        told[f"recall@{TOP} {name} --dim"] = 100 * float((values > 0).mean())
    return {**told, f"share of the {TOP} best that are the same": 100 * float(np.mean(shared))}


def export_blend(
    blend: Blend,
    sample: list[list[int]],
    artifacts: Path,
    version: str,
    source_commit: str,
    data_fingerprint: str,
    measure: Callable[[Bundle], dict[str, float]],
    wanted: WantedIndex,
    learn_repeats: Callable[[Bundle], RepeatTable | None],
) -> Path:
    """Write `bundles/<version>`, checked as any other: see `export_bundle`.

    Raises `BlendError`, `ExportError`.
    """
    if not sample:
        raise ExportError("there is no session of two known items to choose an index and to check by")
    with assembled(artifacts, version) as work:
        vectors = blend.vectors()
        write_graph(blend, work / ENCODER)
        queries = Encoder(work / ENCODER, blend.max_length, torch.get_num_threads()).encode(sample)
        check_tells_apart(vectors, queries, sample)
        try:
            index = write_index(vectors, queries, wanted, work / INDEX)
        except NoIndexFits as error:
            raise ExportError(str(error)) from error
        write_items(work / ITEMS, blend.members[0].bundle.items[1:])
        write_lookup(work)
        provenance = Provenance(BLEND, 1, blend.hyperparameters(), source_commit, data_fingerprint)
        n_items, dim = vectors.shape
        manifest = manifest_of(work, version, n_items, provenance, blend.max_length, "niser", dim, index)
        write_manifest(work, manifest)
        bundle = proven(work, torch.get_num_threads())
        check_sum(blend, bundle, sample[:PARITY_SESSIONS])
        finish(work, bundle, learn_repeats, measure)
    return bundle_path(artifacts, version)


def check_sum(blend: Reference, bundle: Bundle, sample: list[list[int]]) -> None:
    """The loaded bundle answers as its members do, added up. Raises `ExportError` that says what differs."""
    for batch in parity_batches(sample, blend.max_length):
        difference = float(np.abs(blend.encode(batch) - bundle.encoder.encode_padded(batch)).max())
        if not difference <= VECTOR_TOLERANCE:
            raise ExportError(f"the blend's vectors differ by {difference:.2g} at (B, L) = {batch.shape}")
    queries = bundle.encoder.encode(sample)
    scores = blend.encode(right_padded(sample, blend.max_length)).astype(
        np.float64
    ) @ blend.vectors().T.astype(np.float64)
    top = min(TOP, scores.shape[1])
    best = -np.sort(-scores, axis=1)[:, :top]
    _, items = bundle.retriever.exact().search(queries, top)
    gap = float(np.abs(np.take_along_axis(scores, items - 1, 1) - best).max())
    if bundle.retriever.holds_vectors and not gap <= TIE:
        raise ExportError(f"the exact top {top} differs from the members' by more than a tie: {gap:.2g}")


def write_graph(blend: Blend, file: Path) -> None:
    """One graph of all: each member's own, fed with its newest clicks. Raises `BlendError`."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    functions: list[onnx.FunctionProto] = []
    opsets: dict[str, int] = {}
    outputs = []
    ir_version = 0
    for number, member in enumerate(blend.members):
        prefix = f"m{number}/"
        model = _prefixed(onnx.load(member.bundle.path / ENCODER), prefix)
        for opset in model.opset_import:
            if opsets.setdefault(opset.domain, opset.version) != opset.version:
                raise BlendError(
                    f"{member.bundle.manifest.version} is a graph of another version of ONNX's operators"
                    " than those before it: export its checkpoint again"
                )
        ir_version = max(ir_version, model.ir_version)
        cropped, sizes = _newest_clicks(prefix, member.bundle.manifest.max_length)
        nodes += [*cropped, *model.graph.node]
        weight = np.array(np.sqrt(member.weight), np.float32)
        constants += [*model.graph.initializer, *sizes, numpy_helper.from_array(weight, f"{prefix}weight")]
        functions += model.functions
        outputs.append(f"{prefix}weighted")
        nodes.append(helper.make_node("Mul", [f"{prefix}vectors", f"{prefix}weight"], [outputs[-1]]))
    if blend.projection is None:
        nodes.append(helper.make_node("Concat", outputs, ["vectors"], axis=1))
    else:
        constants += [
            numpy_helper.from_array(np.ascontiguousarray(blend.projection), "projection"),
            numpy_helper.from_array(np.array([1], np.int64), "last"),
        ]
        nodes += [
            helper.make_node("Concat", outputs, ["joined"], axis=1),
            helper.make_node("MatMul", ["joined", "projection"], ["narrow"]),
            helper.make_node("ReduceL2", ["narrow", "last"], ["length"], keepdims=1),
            helper.make_node("Div", ["narrow", "length"], ["vectors"]),
        ]
    # Without the members' own notes on shapes, in which B and L are the same in all, and the latter is not.
    graph = helper.make_graph(
        nodes,
        BLEND,
        [helper.make_tensor_value_info("sessions", TensorProto.INT64, ["B", "L"])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["B", None])],
        constants,
    )
    whole = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, number) for domain, number in opsets.items()],
        functions=functions,
        ir_version=ir_version,
    )
    onnx.save_model(
        whole, file, save_as_external_data=True, location=ENCODER_DATA, size_threshold=INLINE_BYTES
    )


def _prefixed(model: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
    """The same with a prefix to all names, those among them by which a loop's body reads what is outside."""
    prefixed: onnx.ModelProto = compose.add_prefix(model, prefix)
    _prefix_bodies(prefixed.graph, prefix, set())
    return prefixed


def _prefix_bodies(graph: onnx.GraphProto, prefix: str, outside: set[str]) -> None:
    defined = [each.name for each in (*graph.input, *graph.initializer)]
    defined += [name for node in graph.node for name in node.output]
    outside = outside | {name.removeprefix(prefix) for name in defined}
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                for inner in body.node:
                    names = [prefix + name if name in outside else name for name in inner.input]
                    inner.input[:] = names
                _prefix_bodies(body, prefix, outside)


def _newest_clicks(prefix: str, length: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Of right-padded sessions (B, L), each one's newest `length` clicks: what `newest` does, as a graph."""

    def name(what: str) -> str:
        return f"{prefix}crop/{what}"

    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Greater", ["sessions", name("zero")], name("is_click"), {}),
        ("Cast", [name("is_click")], name("clicks"), {"to": TensorProto.INT64}),
        ("ReduceSum", [name("clicks"), name("axis")], name("n_clicks"), {"keepdims": 1}),  # (B, 1)
        ("Sub", [name("n_clicks"), name("length")], name("too_many"), {}),
        ("Max", [name("too_many"), name("zero")], name("start"), {}),
        ("Shape", ["sessions"], name("width_of_all"), {"start": 1, "end": 2}),
        ("Min", [name("width_of_all"), name("length")], name("width"), {}),
        ("Squeeze", [name("width")], name("stop"), {}),
        ("Range", [name("zero"), name("stop"), name("one")], name("places"), {}),  # (l,)
        ("Add", [name("start"), name("places")], name("which"), {}),  # (B, l)
        ("GatherElements", ["sessions", name("which")], f"{prefix}sessions", {"axis": 1}),
    ]
    sizes = {"zero": np.array(0), "one": np.array(1), "axis": np.array([1]), "length": np.array([length])}
    return (
        [helper.make_node(kind, inputs, [output], **how) for kind, inputs, output, how in steps],
        [numpy_helper.from_array(value.astype(np.int64), name(what)) for what, value in sizes.items()],
    )


def _proportions(n: int) -> list[list[float]]:
    """Weights to try beside equal ones."""
    if n > FEW_MEMBERS:
        return [
            [step if place == other else 1.0 for place in range(n)]
            for other in range(n)
            for step in (0.5, 2.0)
        ]
    found = {tuple(step / sum(steps) for step in steps): steps for steps in product(STEPS, repeat=n)}
    return [[float(step) for step in steps] for steps in found.values() if len(set(steps)) > 1]


def _reciprocals(scores: Vectors, targets: Items) -> Vectors:
    of_target = np.take_along_axis(scores, targets[:, None] - 1, 1)
    ranks = (scores >= of_target).sum(1)
    reciprocals: Vectors = np.where(ranks <= TOP, 1 / ranks, 0)
    return reciprocals


def _units(vectors: Vectors) -> Vectors:
    units: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def _as_long_as(values: Sequence[float], length: int = MOST) -> Vectors:
    return np.array([*values, *[values[-1]] * (length - len(values))])
