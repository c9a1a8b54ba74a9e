"""The bundle: the one place where training and serving meet.

A bundle is a directory that holds exactly what is needed to answer a session:

    manifest.json       what this is, how it was made, and the sha256 of every other file and of itself
    items.txt           external item id of item index 1..n, by descending training popularity
    items.lookup.npy    where each id stands and which index it has: see `service.ranking.item_ids`; bundles
                        of before there was one go without, and each worker makes its own

and, if its kind is `encoder`,

    encoder.onnx[.data] sessions (B, L) int64 -> vectors (B, D) float32, L2-normalised
    index.faiss         inner product over L2-normalised item vectors; FAISS id = item index - 1
    content.npz         only if it was made with items' attributes: see `service.ranking.content`

or, if its kind is `neighbours`, one `.npy` for each array of `service.ranking.neighbours`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, Self

import numpy as np
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.ranking.checksums import first_that_differs
from service.ranking.cold import ColdItems
from service.ranking.content import CONTENT, Content, ContentFormatError
from service.ranking.encoder import Encoder, Interrupt
from service.ranking.item_ids import (
    MAX_ITEM_ID_LENGTH,
    BadItems,
    IndexOf,
    ItemIds,
    ItemTable,
    item_id_problem,
    lookup_of,
)
from service.ranking.neighbours import NEIGHBOURS
from service.ranking.ranker import NearestItems, Ranker
from service.ranking.repeats import Repeats, RepeatTable
from service.ranking.retriever import Codes, Kind, Retriever, spread

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ENCODER = "encoder.onnx"
ENCODER_DATA = "encoder.onnx.data"
INDEX = "index.faiss"
ITEMS = "items.txt"
LOOKUP = "items.lookup.npy"
ENCODER_FILES = (ENCODER, ENCODER_DATA, INDEX, ITEMS)
# Of an id, for documents. Not `$`, which Python also finds before a last line feed.
NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]*(?![\s\S])"
MAX_MANIFEST_BYTES = 1_000_000  # they have about 2,000
MAX_MANIFEST_DEPTH = 8  # they have 2
PROVEN_AT_LOAD = 256  # items, of which a service looks at vectors and answers before it serves any
PROVEN_AT_ONCE = 1024
PROVEN_ANSWERS = 8  # each may be a search through all items
PROVEN_K = 20
VERSION_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

log = structlog.get_logger()


class BundleError(ValueError):
    """A bundle cannot be served; the message names the file and what is wrong with it."""


class IndexInfo(BaseModel):
    """What kind of index was built, and what it was measured to lose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    recall_at_20: float = Field(ge=0, le=1, description="measured against exact search, on real sessions")
    ef_search: int | None = Field(default=None, ge=1, description="of hnsw: how far one search walks")
    codes: Codes | None = Field(default=None, description="of ivf-sq: what a dimension is stored as")
    n_lists: int | None = Field(default=None, ge=1, description="of ivf")
    n_probe: int | None = Field(default=None, ge=1, description="of ivf: how many lists one search reads")
    p50_microseconds: float | None = Field(
        default=None, gt=0, description="of one search on one thread, where it was exported"
    )
    megabytes: float | None = Field(default=None, gt=0, description="of the file, in millions of bytes")

    @property
    def breadth(self) -> int | None:
        """How much of the index one search looks at; None where it is all of it."""
        return self.n_probe if self.kind.startswith("ivf") else self.ef_search


class Manifest(BaseModel):
    """The contract's first page: read before any other file is opened."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_version: int
    version: str = Field(pattern=rf"^{VERSION_PATTERN.pattern}$")
    kind: Literal["encoder", "neighbours"] = "encoder"
    model: str
    head: Literal["native", "niser"] | None = None
    hyperparameters: dict[str, bool | int | float | str | None]
    source_commit: str
    data_fingerprint: str
    created_at: datetime
    n_items: int = Field(ge=1)
    dim: int | None = Field(default=None, ge=1)
    max_length: int = Field(ge=1)
    index: IndexInfo | None = None
    repeat: RepeatTable | None = Field(
        default=None, description="what is added to the scores of items that the session holds; of an encoder"
    )
    metrics: dict[str, float]
    files: dict[str, str] = Field(
        description="sha256 of every other file; under manifest.json, of the manifest without that entry"
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "encoder" and None in (self.head, self.dim, self.index):
            raise ValueError("an encoder has a head, a dim and an index")
        if self.kind == "neighbours" and self.repeat is not None:
            raise ValueError("neighbours have no vectors to score a repeat by")
        if self.kind == "neighbours" and self.model not in NEIGHBOURS:
            raise ValueError(f"{self.model} is none of the neighbours: {', '.join(NEIGHBOURS)}")
        return self

    @property
    def required(self) -> tuple[str, ...]:
        """The files that a bundle of this kind must have beside the manifest."""
        return ENCODER_FILES if self.kind == "encoder" else (*NEIGHBOURS[self.model].files(), ITEMS)


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. `items[i]` is the external id of item index i; `items[0]` is PAD's empty id."""

    path: Path
    manifest: Manifest
    items: ItemIds
    index_of: IndexOf
    ranker: Ranker
    content: Content | None = None  # gives vectors to items that it has never seen; its ranker has them

    @classmethod
    def load(cls, path: Path, threads: int = 1, interrupt: Interrupt | None = None) -> Bundle:
        """Open and verify every file under `path`.

        `threads` is onnxruntime's intra-op count: 1 when serving, more for offline evaluation.
        Raises `BundleError` for anything missing, altered, truncated, newer, inconsistent or not finite.
        """
        manifest = read_manifest(path)
        check_sums(path, manifest)
        items = _load_items(path, manifest)
        ranker: Ranker
        content = None
        if manifest.kind == "encoder":
            ranker = _load_encoder(path, manifest, threads, interrupt)
            if CONTENT in manifest.files:
                content = _load_content(path, ranker.retriever.dim)
                ranker = replace(ranker, cold=ColdItems(items.n_items, content.dim, content.calibration))
            if manifest.repeat is not None:
                ranker.retriever.ready_vectors()
                ranker = replace(ranker, repeats=Repeats.of(manifest.repeat, manifest.max_length))
        else:
            ranker = _load_neighbours(path, manifest)
        bundle = cls(
            path=path,
            manifest=manifest,
            items=ItemIds(items),
            index_of=IndexOf(items),
            ranker=ranker,
            content=content,
        )
        bundle.prove(PROVEN_AT_LOAD)
        return bundle

    def prove(self, sample: int | None = None) -> None:
        """Look at the vectors of a sample of items, and at answers to them; None looks at all items.

        Raises `BundleError` for what is not finite or has no direction, and for answers that are no items.
        """
        n_items, longest = self.manifest.n_items, self.manifest.max_length
        if problem := self.index_of.problem(sample):
            raise BundleError(f"{self.path / LOOKUP}: {problem}")
        if isinstance(self.ranker, NearestItems):
            if problem := self.ranker.retriever.problem(sample):
                raise BundleError(f"{self.path / INDEX}: {problem}")
            items = spread(n_items, sample)
            for start in range(0, len(items), PROVEN_AT_ONCE):
                some = items[start : start + PROVEN_AT_ONCE].tolist()
                # Each by itself, and all of them within the longest sessions there can be.
                sessions = [[item] for item in some] + [
                    some[row : row + longest] for row in range(0, len(some), longest)
                ]
                if problem := self.ranker.encoder.problem(sessions):
                    raise BundleError(f"{self.path / ENCODER}: {problem}")
        self._prove_answers()

    def _prove_answers(self) -> None:
        n_items, k = self.manifest.n_items, min(PROVEN_K, self.manifest.n_items)
        asked = spread(n_items, PROVEN_ANSWERS)
        nearest = isinstance(self.ranker, NearestItems)
        _, first = self.ranker.search(asked[:, None], 1)
        if nearest and not first.all():
            raise BundleError(f"{self.path / INDEX}: its search finds nothing for some sessions")
        sessions = asked[:, None].tolist()
        for scores, items in self.ranker.rank(sessions, [k] * len(asked), [()] * len(asked)):
            if nearest and len(items) < k:
                raise BundleError(f"{self.path}: answers {len(items)} items where {k} were asked for")
            if not np.isfinite(scores).all():
                raise BundleError(f"{self.path}: answers scores that are not finite")
            if len(items) and not 1 <= items.min() <= items.max() <= n_items:
                raise BundleError(f"{self.path}: answers items outside 1..{n_items}")

    @property
    def encoder(self) -> Encoder:
        """Raises `BundleError` when there is none."""
        return self._nearest_items().encoder

    @property
    def retriever(self) -> Retriever:
        """Raises `BundleError` when there is none."""
        return self._nearest_items().retriever

    @property
    def is_cosine(self) -> bool:
        """Whether its scores are cosines, of vectors that it has; those of repeats may go beyond."""
        return isinstance(self.ranker, NearestItems)

    def ready_vectors(self) -> None:
        """Be ready to look up vectors, which else has to be made so while a visitor waits."""
        if isinstance(self.ranker, NearestItems):
            self.ranker.retriever.ready_vectors()

    def _nearest_items(self) -> NearestItems:
        if not isinstance(self.ranker, NearestItems):
            raise BundleError(f"{self.path}: {self.manifest.model} ranks by neighbours: it has no vectors")
        return self.ranker


def _load_items(path: Path, manifest: Manifest) -> ItemTable:
    file = path / ITEMS
    try:
        table = ItemTable.open(file, path / LOOKUP) if LOOKUP in manifest.files else ItemTable.build(file)
    except (ValueError, OSError) as error:
        if LOOKUP not in manifest.files:
            read_items(file)  # says which line it is
        raise BundleError(f"{path / LOOKUP}: {error}") from error
    _agree(path, {f"{ITEMS}: items": (table.n_items, manifest.n_items)})
    return table


def _load_encoder(path: Path, manifest: Manifest, threads: int, interrupt: Interrupt | None) -> NearestItems:
    assert manifest.index is not None, "the manifest was validated"
    try:
        encoder = Encoder(path / ENCODER, manifest.max_length, threads, interrupt)
    except ValueError as error:
        raise BundleError(f"{path / ENCODER}: {error}") from error
    try:
        retriever = Retriever.load(path / INDEX, manifest.index.kind, manifest.dim, manifest.index.breadth)
    except ValueError as error:
        raise BundleError(f"{path / INDEX}: {error}") from error
    _agree(
        path,
        {
            f"{INDEX}: rows": (retriever.n_items, manifest.n_items),
            f"{INDEX}: dimensions": (retriever.dim, manifest.dim),
            f"{ENCODER}: dimensions": (encoder.dim, manifest.dim),
        },
    )
    try:
        encoder.encode([[manifest.n_items]])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise BundleError(f"{path / ENCODER}: it does not know item {manifest.n_items}: {error}") from error
    return NearestItems(encoder, retriever)


def _load_content(path: Path, dim: int) -> Content:
    try:
        return Content.load(path / CONTENT, dim)
    except ContentFormatError as error:
        raise BundleError(f"{path / CONTENT}: {error}") from error


def _load_neighbours(path: Path, manifest: Manifest) -> Ranker:
    try:
        neighbours = NEIGHBOURS[manifest.model].load(path)
    except ValueError as error:
        raise BundleError(f"{path}/{error}") from error
    _agree(
        path,
        {
            "arrays: items": (neighbours.n_items, manifest.n_items),
            "arrays: longest session": (neighbours.max_length, manifest.max_length),
        },
    )
    neighbours.rank([[manifest.n_items] * neighbours.max_length], [1], [()])
    return neighbours


def _agree(path: Path, found: dict[str, tuple[int, int | None]]) -> None:
    for what, (actual, declared) in found.items():
        if actual != declared:
            raise BundleError(f"{path}/{what}: {actual}, but the manifest says {declared}")


def read_manifest(path: Path) -> Manifest:
    """Read `path`/manifest.json, the schema version first. Raises `BundleError`."""
    file = path / MANIFEST
    try:
        raw = json.loads(_manifest_text(path))
    except ValueError as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{file}: not JSON: {error}") from error
    schema = raw.get("schema_version") if isinstance(raw, dict) else None
    if schema != SCHEMA_VERSION:
        raise BundleError(f"{file}: schema_version is {schema!r}, this service reads {SCHEMA_VERSION}")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{file}: field '{field}': {first['msg']}") from error
    if MANIFEST not in manifest.files:
        log.info("bundle without a checksum of its manifest", file=str(file))  # of before there was one
    elif manifest.files[MANIFEST] != manifest_sha256(raw):
        raise BundleError(f"{file}: sha256 differs from its own: altered")
    return manifest


def check_files(path: Path, manifest: Manifest) -> None:
    """Whether every file that a bundle must have, or says it has, is there; none is read.

    Raises `BundleError`.
    """
    for name in manifest.required:
        if name not in manifest.files:
            raise BundleError(f"{path / MANIFEST}: 'files' has no sha256 for {name}")
    for name in manifest.files:
        file_within(path, name)


def check_sums(path: Path, manifest: Manifest) -> None:
    """Whether every file is there, and as it was written; what this host has read before, and is the same
    file still, is not read again. Raises `BundleError`.
    """
    check_files(path, manifest)
    files = {name: sha256 for name, sha256 in manifest.files.items() if name != MANIFEST}
    try:
        different = first_that_differs(path, files)
    except OSError as error:
        raise BundleError(f"{error.filename or path}: cannot be read: {error.strerror}") from error
    if different is not None:
        raise BundleError(f"{path / different}: sha256 differs from the manifest's: altered or truncated")


def _manifest_text(path: Path) -> str:
    """What can be parsed without danger. Raises `BundleError`, `UnicodeDecodeError`."""
    file = path / MANIFEST
    try:
        with file_within(path, MANIFEST).open("rb") as stream:
            content = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{file}: larger than {MAX_MANIFEST_BYTES} bytes")
    depth = deepest = 0
    for bracket in re.findall(rb"[\[{}\]]", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", content)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_MANIFEST_DEPTH:
        raise BundleError(f"{file}: nested deeper than {MAX_MANIFEST_DEPTH}")
    return content.decode("utf-8")


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest last, with its checksum, and synced: a directory without one is no bundle."""
    # What a bundle does not have, a service of before there was it shall not stumble over.
    raw = json.loads(manifest.model_dump_json(exclude={"repeat"} if manifest.repeat is None else None))
    raw["files"][MANIFEST] = manifest_sha256(raw)
    with (path / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def manifest_sha256(raw: Mapping[str, object]) -> str:
    """The checksum of a parsed manifest: of all its values, but for the checksum itself.

    It stands among the files' so that a service of before there was one still reads the bundle.
    """
    files = raw["files"]
    assert isinstance(files, dict)
    others = {name: sha256 for name, sha256 in files.items() if name != MANIFEST}
    canonical = json.dumps({**raw, "files": others}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_within(path: Path, name: str) -> Path:
    """`path`/`name`, if it is a plain file that lies there. Raises `BundleError`.

    Nothing is opened: a pipe would wait for a writer for ever, and a link could lead anywhere.
    """
    file = path / name
    try:
        place, mode = file.resolve(strict=True), file.stat().st_mode
    except FileNotFoundError:
        unfinished = ": not a bundle, or one that was not finished" if name == MANIFEST else ""
        raise BundleError(f"{file}: missing{unfinished}") from None
    except (OSError, RuntimeError) as error:  # the latter of links that lead in a circle
        raise BundleError(f"{file}: cannot be read: {getattr(error, 'strerror', error)}") from error
    if not place.is_relative_to(path.resolve()):
        raise BundleError(f"{file}: leads out of the bundle")
    if not stat.S_ISREG(mode):
        raise BundleError(f"{file}: not a plain file")
    return file


def read_items(file: Path) -> list[str]:
    """Read items.txt. Raises `BundleError` naming the line of an empty, bad or repeated id."""
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{file}: not UTF-8: {error}") from error
    items = text.removesuffix("\n").split("\n") if text else []
    if _all_good(items):
        return items
    line_of: dict[str, int] = {}
    for line, item_id in enumerate(items, start=1):
        problem = item_id_problem(item_id)
        if problem:
            raise BundleError(f"{file}:{line}: item id {problem}")
        if item_id in line_of:
            raise BundleError(f"{file}:{line}: item {item_id!r} already stands on line {line_of[item_id]}")
        line_of[item_id] = line
    return items


def _all_good(items: Sequence[str]) -> bool:
    """What the loop over lines would find out, in a few calls that look at all of them at once."""
    return (
        len(set(items)) == len(items)
        and "".join(items).isprintable()
        and min(map(len, items), default=1) > 0
        and max(map(len, items), default=1) <= MAX_ITEM_ID_LENGTH
    )


def write_items(file: Path, items: Sequence[str]) -> None:
    """Write one id per line; the counterpart of `read_items`."""
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{item_id}\n" for item_id in items)


def write_lookup(path: Path) -> None:
    """Write the lookup of `path`/items.txt beside it. Raises `BundleError` as `read_items` does."""
    try:
        np.save(path / LOOKUP, lookup_of((path / ITEMS).read_bytes()))
    except (BadItems, UnicodeDecodeError):
        read_items(path / ITEMS)
        raise
