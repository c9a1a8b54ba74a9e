"""A trained model to a bundle: written aside, re-loaded as when served, checked, then moved into place."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.base import Head, SessionEncoder
from models.sessions import Sessions
from service.live.deployment import bundle_path
from service.ranking.bundle import (
    ENCODER,
    INDEX,
    ITEMS,
    SCHEMA_VERSION,
    Bundle,
    BundleError,
    IndexInfo,
    Manifest,
    write_items,
    write_lookup,
    write_manifest,
)
from service.ranking.checksums import file_sha256
from service.ranking.content import CONTENT, Content
from service.ranking.neighbours import Neighbours
from service.ranking.repeats import RepeatTable
from service.ranking.retriever import Vectors
from training.bundling.indexes import FASTEST, INDEX_SESSIONS, TIE, TOP, NoIndexFits, WantedIndex, write_index
from training.bundling.provenance import Provenance
from training.learn.checkpoint import unwritten

PARITY_SESSIONS = 256
VECTOR_TOLERANCE = 1e-4
SAME = 1e-6  # cosines and coordinates closer than this differ by rounding only
TOLD_APART = 64  # sessions whose answers are compared


class ExportError(RuntimeError):
    """The bundle does not answer as the model does; nothing was put in place."""


def recent_sessions(sessions: Sessions) -> list[list[int]]:
    """The newest sessions without their last click: real inputs for the checks at export.

    Those of a single click, which a log that comes split may hold, have nothing before it.
    """
    used = np.flatnonzero(np.diff(sessions.offsets) > 1)[-INDEX_SESSIONS:]
    return [
        sessions.items[start : end - 1].tolist()
        for start, end in zip(sessions.offsets[used], sessions.offsets[used + 1], strict=True)
    ]


def export_bundle(
    model: SessionEncoder,
    items: list[str],
    sample: list[list[int]],
    provenance: Provenance,
    artifacts: Path,
    version: str,
    measure: Callable[[Bundle], dict[str, float]],
    wanted: WantedIndex = FASTEST,
    learn_content: Callable[[Vectors], Content | None] = lambda _: None,
    learn_repeats: Callable[[Bundle], RepeatTable | None] = lambda _: None,
) -> Path:
    """Write `bundles/<version>` and return its path.

    `items[i]` is the external id of item index i + 1, by descending popularity; `sample` holds real sessions
    of item indices for the checks; `measure` gives the offline metrics of the loaded bundle, `learn_content`
    what is made of items' attributes and their vectors, `learn_repeats` the table for items that a session
    holds. Raises `ExportError`.
    """
    model.eval()
    with assembled(artifacts, version) as work:
        vectors = served_item_vectors(model)
        queries = served_session_vectors(model, sample[:INDEX_SESSIONS])
        check_tells_apart(vectors, queries, sample)
        write_encoder(model, work / ENCODER)
        try:
            index = write_index(vectors, queries, wanted, work / INDEX)
        except NoIndexFits as error:
            raise ExportError(str(error)) from error
        write_items(work / ITEMS, items)
        write_lookup(work)
        content = learn_content(vectors)
        if content is not None:
            content.save(work / CONTENT)
        manifest = manifest_of(
            work, version, len(items), provenance, model.max_length, model.head, vectors.shape[1], index
        )
        write_manifest(work, manifest)
        bundle = proven(work, torch.get_num_threads())
        check_parity(model, bundle, sample[:PARITY_SESSIONS])
        finish(work, bundle, learn_repeats, measure)
    return bundle_path(artifacts, version)


def export_neighbours(
    neighbours: Neighbours,
    items: list[str],
    sample: list[list[int]],
    provenance: Provenance,
    artifacts: Path,
    version: str,
    measure: Callable[[Bundle], dict[str, float]],
) -> Path:
    """The same for a bundle of neighbours: its answers to `sample` must be those of `neighbours` itself."""
    sample = sample[:PARITY_SESSIONS]
    with assembled(artifacts, version) as work:
        neighbours.save(work)
        write_items(work / ITEMS, items)
        write_lookup(work)
        manifest = manifest_of(work, version, len(items), provenance, neighbours.max_length)
        write_manifest(work, manifest)
        bundle = proven(work)
        ks, excluded = [TOP] * len(sample), [()] * len(sample)
        counted, loaded = (each.rank(sample, ks, excluded) for each in (neighbours, bundle.ranker))
        for (scores, found), (same_scores, same_items) in zip(counted, loaded, strict=True):
            if not (np.array_equal(scores, same_scores) and np.array_equal(found, same_items)):
                raise ExportError("the loaded arrays answer otherwise than those that were counted")
        write_manifest(work, manifest.model_copy(update={"metrics": measure(bundle)}))
    return bundle_path(artifacts, version)


def finish(
    work: Path,
    bundle: Bundle,
    learn_repeats: Callable[[Bundle], RepeatTable | None],
    measure: Callable[[Bundle], dict[str, float]],
) -> None:
    """Write into the manifest what only the loaded bundle tells: its table for repeats, and how it does."""
    manifest = bundle.manifest
    if (table := learn_repeats(bundle)) is not None:
        manifest = manifest.model_copy(update={"repeat": table})
        write_manifest(work, manifest)
        bundle = Bundle.load(work, torch.get_num_threads())
    write_manifest(work, manifest.model_copy(update={"metrics": measure(bundle)}))


def proven(work: Path, threads: int = 1) -> Bundle:
    """What was written, loaded as it will be and looked at in every item. Raises `ExportError`."""
    try:
        bundle = Bundle.load(work, threads)
        bundle.prove()
    except BundleError as error:
        raise ExportError(str(error)) from error
    return bundle


@contextlib.contextmanager
def assembled(artifacts: Path, version: str) -> Iterator[Path]:
    """A directory to write a bundle in; it moves into place when all went well, and else is gone."""
    place = bundle_path(artifacts, version)
    if place.exists():
        raise ExportError(f"{place} exists already: versions are never overwritten")
    work = place.with_name(f".{version}.writing")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        work.rename(place)
    except (OSError, RuntimeError) as error:
        problem = unwritten(place, error) if not isinstance(error, ExportError) else None
        if problem is None:
            raise
        raise problem from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def manifest_of(
    work: Path,
    version: str,
    n_items: int,
    provenance: Provenance,
    max_length: int,
    head: Head | None = None,
    dim: int | None = None,
    index: IndexInfo | None = None,
) -> Manifest:
    """The manifest of the files in `work`, without metrics; a bundle with an index is one of an encoder."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        version=version,
        kind="encoder" if index else "neighbours",
        model=provenance.model,
        head=head,
        hyperparameters={"seed": provenance.seed, **provenance.hyperparameters},
        source_commit=provenance.source_commit,
        data_fingerprint=provenance.data_fingerprint,
        created_at=datetime.now(UTC),
        n_items=n_items,
        dim=dim,
        max_length=max_length,
        index=index,
        metrics={},
        files={file.name: file_sha256(file) for file in sorted(work.iterdir())},
    )


class ServedEncoder(nn.Module):
    """The encoder as it is served: one unit vector a session, whatever the head."""

    def __init__(self, model: SessionEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, sessions: Tensor) -> Tensor:
        vectors: Tensor = self.model(sessions)
        if self.model.head == "native":
            vectors = nn.functional.pad(nn.functional.pad(vectors, (0, 1), value=1.0), (0, 1))  # [s; 1; 0]
        return normalize(vectors, dim=1)


@torch.no_grad()  # a loop's gradients would be traced, too, and thrown away: a third of PEN4Rec's export
def write_encoder(model: SessionEncoder, file: Path) -> None:
    """Export to ONNX with dynamic B and L, weights beside the graph in `<file>.data`."""
    example = torch.ones(3, 4, dtype=torch.int64)
    example[1, 2:] = 0
    dynamic = {"sessions": {0: torch.export.Dim("B"), 1: torch.export.Dim("L", max=model.max_length)}}
    chatter = io.StringIO()  # the exporter prints its steps
    with warnings.catch_warnings(), contextlib.redirect_stdout(chatter), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore")  # deprecations inside the exporter, none of ours
        exported = torch.export.export(
            ServedEncoder(model).eval(), (example,), dynamic_shapes=dynamic, strict=False
        )
        program = torch.onnx.export(
            exported, input_names=["sessions"], output_names=["vectors"], dynamic_shapes=dynamic, dynamo=True
        )
    assert program is not None
    program.save(str(file), external_data=True)


@contextlib.contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@torch.inference_mode()
def served_item_vectors(model: SessionEncoder) -> Vectors:
    """(n, D') unit vectors whose inner product with a served session vector orders items as the model does.

    A dot product with bias becomes a cosine exactly: [v; b; sqrt(M² − ‖v‖² − b²)] / M, M = max ‖[v; b]‖.
    """
    vectors = model.item_vectors()[1:].double()
    if model.head == "niser":
        return normalize(vectors, dim=1).float().numpy()
    bias = model.item_bias()
    column = vectors.new_zeros(len(vectors)) if bias is None else bias[1:].double()
    extended = torch.cat([vectors, column[:, None]], 1)
    squares = extended.square().sum(1)
    largest = squares.max()
    filler = (largest - squares).clamp(min=0).sqrt()
    return (torch.cat([extended, filler[:, None]], 1) / largest.sqrt()).float().numpy()


@torch.inference_mode()
def served_session_vectors(model: SessionEncoder, sessions: list[list[int]]) -> Vectors:
    """(B, D') unit vectors, as the bundle's encoder will make them."""
    vectors: Vectors = (
        ServedEncoder(model).eval()(torch.from_numpy(right_padded(sessions, model.max_length))).numpy()
    )
    return vectors


def check_tells_apart(vectors: Vectors, queries: Vectors, sample: list[list[int]]) -> None:
    """Refuse a model that has diverged, or collapsed to one score or one answer. Raises `ExportError`.

    `queries` (B, D) are the vectors of the sessions in `sample`, `vectors` (n, D) those of the items.
    """
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        raise ExportError(f"the vector of item {bad[0] + 1} is not finite: the model has diverged")
    bad = np.flatnonzero(~np.isfinite(queries).all(1))
    if len(bad):
        raise ExportError(f"the vector of session {sample[bad[0]]} is not finite: the model has diverged")
    queries, sample = queries[:TOLD_APART], sample[:TOLD_APART]
    scores = queries @ vectors.T  # (B, n)
    if len(vectors) > 1 and np.ptp(scores, axis=1).max() <= SAME:
        raise ExportError("all items have the same score in every session: the model is constant")
    differ = len(vectors) > 1 and len({session[-1] for session in sample}) > 1
    if differ and np.ptp(queries, axis=0).max() <= SAME:
        raise ExportError("all sessions have the same vector, and one answer: the model is constant")


@torch.inference_mode()
def check_parity(model: SessionEncoder, bundle: Bundle, sample: list[list[int]]) -> None:
    """Compare the loaded bundle with the model on real sessions. Raises `ExportError` that says what differs.

    Vectors within 1e-4, at every batch size and length that has ever gone wrong; the exact top 20 equal up to
    ties of 1e-5.
    """
    served = ServedEncoder(model).eval()
    longest = bundle.encoder.max_length
    for batch in parity_batches(sample, longest):
        expected = served(torch.from_numpy(batch)).numpy()
        difference = float(np.abs(expected - bundle.encoder.encode_padded(batch)).max())
        if not difference <= VECTOR_TOLERANCE:
            raise ExportError(f"ONNX and torch vectors differ by {difference:.2g} at (B, L) = {batch.shape}")

    vectors = served(torch.from_numpy(right_padded(sample, longest))).double().numpy()
    scores = vectors @ served_item_vectors(model).T.astype(np.float64)  # (B, n)
    top = min(TOP, scores.shape[1])
    best = -np.sort(-scores, axis=1)[:, :top]
    _, items = bundle.retriever.exact().search(bundle.encoder.encode(sample), top)
    gap = float(np.abs(np.take_along_axis(scores, items - 1, 1) - best).max())
    if bundle.retriever.holds_vectors and not gap <= TIE:  # what codes lose, their recall has shown
        raise ExportError(f"the exact top {top} differs from the model's by more than a tie: {gap:.2g}")
    _check_order(model, scores, sample, longest)


def parity_batches(sample: list[list[int]], longest: int) -> list[npt.NDArray[np.int64]]:
    """Real sessions in every shape that has ever gone wrong."""
    clicks = np.resize(np.concatenate([np.asarray(session) for session in sample]), 5 * longest)
    shapes = [(b, length) for b in (1, 5) for length in (1, 2, longest)]
    batches = [clicks[: b * length].reshape(b, length).astype(np.int64) for b, length in shapes]
    return [*batches, right_padded(sample, longest), *batches]  # a large batch, then the small ones again


def _check_order(
    model: SessionEncoder, cosines: npt.NDArray[np.float64], sample: list[list[int]], longest: int
) -> None:
    """The served cosine orders items as the model's own score does: s·v + b, or the cosine itself."""
    vectors = model(torch.from_numpy(right_padded(sample, longest))).double()
    items = model.item_vectors()[1:].double()
    bias = model.item_bias()
    if model.head == "niser":
        own = vectors @ normalize(items, dim=1).T
    else:
        own = vectors @ items.T + (0 if bias is None else bias[1:].double())
    top = np.argsort(-own.numpy(), axis=1, kind="stable")[:, :TOP]
    in_own_order = np.take_along_axis(cosines, top, 1)
    rise = float(np.diff(in_own_order, axis=1).max(initial=0))
    if not rise <= TIE:
        raise ExportError(f"the cosine reduction changes the model's order by {rise:.2g}")


def right_padded(sessions: list[list[int]], longest: int) -> npt.NDArray[np.int64]:
    """(B, L) sessions, of each its newest `longest` clicks at most."""
    length = min(longest, max(map(len, sessions)))
    padded = np.zeros((len(sessions), length), dtype=np.int64)
    for row, session in zip(padded, sessions, strict=True):
        row[: len(session[-length:])] = session[-length:]
    return padded
