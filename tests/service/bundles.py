"""A real bundle without torch, and every way to break it.

Its encoder is the normalised mean of a session's item vectors, so a right answer is a line of numpy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.live.deployment import bundle_path
from service.ranking.bundle import (
    ENCODER,
    ENCODER_DATA,
    ENCODER_FILES,
    INDEX,
    ITEMS,
    MANIFEST,
    SCHEMA_VERSION,
    IndexInfo,
    Manifest,
    manifest_sha256,
    write_items,
    write_lookup,
    write_manifest,
)
from service.ranking.checksums import file_sha256
from service.ranking.content import CONTENT, Calibration, Content, digested
from service.ranking.repeats import RepeatTable
from service.ranking.retriever import Kind, Retriever

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Shop:
    """Items and their vectors, most popular first; `seed` decides the vectors, so it tells versions apart."""

    items: tuple[str, ...]
    vectors: Vectors  # (n, D), L2-normalised
    max_length: int = 10

    @classmethod
    def make(cls, n_items: int = 60, dim: int = 16, seed: int = 0) -> Shop:
        """Random vectors; ids i1, i2, ... in order of popularity."""
        vectors = np.random.default_rng(seed).normal(size=(n_items, dim)).astype(np.float32)
        return cls(tuple(f"i{i}" for i in range(1, n_items + 1)), normalised(vectors))

    def session_vector(self, session: Sequence[str]) -> Vectors:
        """What the encoder must answer for a session of known items."""
        rows = [self.items.index(item_id) for item_id in session[-self.max_length :]]
        vector: Vectors = normalised(self.vectors[rows].mean(axis=0, keepdims=True))[0]
        return vector

    def nearest(self, session: Sequence[str], k: int = 20, without: Collection[str] = ()) -> list[str]:
        """The right answer: the k items of highest cosine, by brute force."""
        order = np.argsort(-(self.vectors @ self.session_vector(session)), kind="stable")
        return [self.items[row] for row in order if self.items[row] not in without][:k]

    def popular(self, k: int = 20, without: Collection[str] = ()) -> list[str]:
        """The right answer of the last stage."""
        return [item_id for item_id in self.items if item_id not in without][:k]

    def content(self, offset: float = 0.0) -> Content:
        """An item whose brand is the id of one of these has that one's vector."""
        digests = [next(digested({"brand": item_id}, {"brand": "string"}))[0] for item_id in self.items]
        order = np.argsort(np.array(digests, np.uint64))
        return Content(
            kinds={"brand": "string"},
            head="niser",
            calibration=Calibration(offset=offset),
            digests=np.array(digests, np.uint64)[order],
            weights=self.vectors[order].astype(np.float16),
            mean=np.zeros(self.vectors.shape[1], np.float32),
            measured={},
        )

    def write(
        self,
        artifacts: Path,
        version: str = "v1",
        index: Kind = "flat",
        content: Content | None = None,
        repeat: RepeatTable | None = None,
    ) -> Path:
        """Write the bundle where the service looks for it."""
        path = bundle_path(artifacts, version)
        path.mkdir(parents=True)
        write_encoder(path / ENCODER, self.vectors)
        Retriever.build(self.vectors, index).save(path / INDEX)
        write_items(path / ITEMS, self.items)
        write_lookup(path)
        if content is not None:
            content.save(path / CONTENT)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            version=version,
            model="mean",
            head="niser",
            hyperparameters={},
            source_commit="test",
            data_fingerprint="test",
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            n_items=len(self.items),
            dim=self.vectors.shape[1],
            max_length=self.max_length,
            index=IndexInfo(kind=index, recall_at_20=1),
            repeat=repeat,
            metrics={"recall@20": 0.5},
            files={file.name: file_sha256(file) for file in path.iterdir()},
        )
        write_manifest(path, manifest)
        return path


def normalised(vectors: Vectors) -> Vectors:
    """Each row at length 1."""
    units: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def edit_manifest(path: Path, **changes: object) -> None:
    """Change fields of a written manifest, as a broken export would: its checksum holds."""
    manifest = json.loads((path / MANIFEST).read_bytes()) | changes
    manifest["files"] = {**manifest["files"], MANIFEST: manifest_sha256(manifest)}
    (path / MANIFEST).write_text(json.dumps(manifest))


def seal(path: Path, *more: str) -> None:
    """Make the manifest's checksums agree with the files again, however broken those are."""
    edit_manifest(path, files={name: file_sha256(path / name) for name in (*ENCODER_FILES, *more)})


def write_encoder(file: Path, vectors: Vectors, *, scale: float = 1.0) -> None:
    """Gather, sum, normalise: PAD's row is zero, so the sum needs no mask. `scale` spoils the length."""
    table = np.vstack([np.zeros((1, vectors.shape[1]), np.float32), vectors])
    constants = {"table": table, "axis": np.array([1], np.int64), "scale": np.array(scale, np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "sessions"], ["clicks"]),  # (B, L, D)
        helper.make_node(
            "ReduceSum", ["clicks", "axis"], ["sums"], keepdims=0
        ),  # (B, D): the mean's direction
        helper.make_node("ReduceL2", ["sums", "axis"], ["norms"], keepdims=1),
        helper.make_node("Div", ["sums", "norms"], ["units"]),
        helper.make_node("Mul", ["units", "scale"], ["vectors"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("sessions", TensorProto.INT64, ["B", "L"])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["B", vectors.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, file, save_as_external_data=True, location=ENCODER_DATA, size_threshold=64)


def write_endless_encoder(file: Path) -> None:
    """The right signature; and each run goes round a loop nearly for ever."""
    body = helper.make_graph(
        [
            helper.make_node("Less", ["turn", "most"], ["goes_on"]),
            helper.make_node("Add", ["turns", "one"], ["turned"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("turns", TensorProto.FLOAT, [1, 1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("turned", TensorProto.FLOAT, [1, 1]),
        ],
    )
    constants = {
        "most": np.array(2**62, np.int64),
        "yes": np.array(True),
        "one": np.ones((1, 1), np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["sessions"], ["clicks"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["clicks"], ["start"], keepdims=1),
        helper.make_node("Loop", ["most", "yes", "start"], ["vectors"], body=body),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("sessions", TensorProto.INT64, ["B", "L"])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _cut(name: str) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: len(content) // 2])

    return cut


def _remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def _sealed(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """A broken file that its manifest vouches for: made by a broken export, not by a broken disk."""

    def break_and_seal(path: Path) -> None:
        change(path)
        seal(path)

    return break_and_seal


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return _sealed(lambda path: (path / name).write_bytes(content))


def _write_index(index: faiss.Index) -> Callable[[Path], None]:
    return _sealed(lambda path: faiss.write_index(index, str(path / INDEX)))


def _write_encoder(shop: Shop, **changes: float) -> Callable[[Path], None]:
    return _sealed(lambda path: write_encoder(path / ENCODER, shop.vectors, **changes))


def _manifest(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: (path / MANIFEST).write_bytes(change((path / MANIFEST).read_bytes()))


def _instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else in the place of a file."""

    def put(path: Path) -> None:
        (path / name).unlink()
        make(path / name)

    return put


def _link_out(name: str) -> Callable[[Path], None]:
    """The right file, but elsewhere."""

    def move(path: Path) -> None:
        (path / name).rename(path.parent / name)
        (path / name).symlink_to(path.parent / name)

    return move


def with_row(vectors: Vectors, row: int, value: float) -> Vectors:
    """A copy with one row that is `value` throughout."""
    changed = vectors.copy()
    changed[row] = value
    return changed


def _wrong_signature(path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["clicks"], ["vectors"])],
        "wrong",
        [helper.make_tensor_value_info("clicks", TensorProto.FLOAT, ["B", "L"])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["B", "L"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path / ENCODER)


# Ways to break a written `Shop.make()` bundle, and what the refusal must say.
BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"{name} truncated": (_cut(name), f"{name}: sha256 differs") for name in ENCODER_FILES},
    **{f"{name} missing": (_remove(name), f"{name}: missing") for name in ENCODER_FILES},
    "manifest missing": (_remove(MANIFEST), "manifest.json: missing"),
    "manifest truncated": (_cut(MANIFEST), "manifest.json: not JSON"),
    "manifest no object": (lambda path: (path / MANIFEST).write_text("[]"), "schema_version is None"),
    "newer schema": (
        lambda path: edit_manifest(path, schema_version=2),
        "schema_version is 2, this service reads 1",
    ),
    "unknown field": (lambda path: edit_manifest(path, colour="red"), "field 'colour'"),
    "metric not a number": (
        lambda path: edit_manifest(path, metrics={"mrr@20": float("nan")}),
        "metrics.mrr@20",
    ),
    "manifest altered": (
        _manifest(lambda raw: raw.replace(b'"mean"', b'"Mean"')),
        "sha256 differs from its own",
    ),
    "manifest unsealed": (
        _manifest(lambda raw: raw.replace(b'"manifest.json":', b'"manifest.jsom":')),
        "manifest.jsom: missing",
    ),
    "manifest too large": (_manifest(lambda raw: raw + b" " * 1_000_000), "larger than 1000000 bytes"),
    "manifest too deep": (_manifest(lambda _: b"[" * 100_000 + b"]" * 100_000), "nested deeper than 8"),
    **{
        f"{name} a pipe": (_instead(name, lambda file: os.mkfifo(file)), f"{name}: not a plain file")
        for name in (MANIFEST, ITEMS)
    },
    **{
        f"{name} a directory": (_instead(name, Path.mkdir), f"{name}: not a plain file")
        for name in (MANIFEST, INDEX)
    },
    "a device": (
        _instead(ENCODER, lambda file: file.symlink_to("/dev/zero")),
        "encoder.onnx: leads out of the bundle",
    ),
    **{
        f"{name} elsewhere": (_link_out(name), f"{name}: leads out of the bundle")
        for name in (*ENCODER_FILES, MANIFEST)
    },
    "a link to itself": (_instead(ITEMS, lambda file: file.symlink_to(ITEMS)), "items.txt: cannot be read"),
    "version no file name": (lambda path: edit_manifest(path, version="../v1"), "field 'version'"),
    "file not vouched for": (lambda path: edit_manifest(path, files={}), "no sha256 for encoder.onnx"),
    "another version": (lambda path: edit_manifest(path, version="v9"), "its manifest says version v9"),
    "too many items declared": (lambda path: edit_manifest(path, n_items=61), "60, but the manifest says 61"),
    "another dim declared": (lambda path: edit_manifest(path, dim=8), "16, but the manifest says 8"),
    "items with a duplicate": (_write(ITEMS, b"a\nb\na\n"), "items.txt:3: item 'a' already stands on line 1"),
    "items with an empty line": (_write(ITEMS, b"a\n\nb\n"), "items.txt:2: item id is empty"),
    "items with a control character": (_write(ITEMS, b"a\nb\x00\n"), "items.txt:2: item id holds a control"),
    "items not UTF-8": (_write(ITEMS, b"a\n\xff\n"), "items.txt: not UTF-8"),
    "items of another bundle": (_write(ITEMS, b"a\nb\n"), "items.txt: items: 2, but the manifest says 60"),
    "index of garbage": (_write(INDEX, b"garbage"), "index.faiss: faiss cannot read it"),
    "index empty": (_write(INDEX, b""), "index.faiss: faiss cannot read it"),
    "index truncated at export": (_sealed(_cut(INDEX)), "index.faiss: faiss cannot read it"),
    "index of distances": (
        _write_index(faiss.IndexFlatL2(16)),
        "index.faiss: its metric is not the inner product",
    ),
    "index of another kind": (_write_index(faiss.IndexLSH(16, 16)), "IndexLSH is not an index of kind flat"),
    "encoder of garbage": (_write(ENCODER, b"garbage"), "encoder.onnx: onnxruntime cannot load it"),
    "encoder truncated at export": (_sealed(_cut(ENCODER_DATA)), "encoder.onnx: onnxruntime cannot load it"),
    "encoder of another dim": (_write_encoder(Shop.make(dim=8)), "encoder.onnx: dimensions: 8"),
    "encoder of fewer items": (
        _write_encoder(Shop.make(n_items=9)),
        "encoder.onnx: it does not know item 60",
    ),
    "encoder of NaN": (
        _write_encoder(Shop.make(), scale=float("nan")),
        "its vectors are not of length 1",
    ),
    **{
        f"encoder with an item of {value}": (
            _write_encoder(replace(Shop.make(), vectors=with_row(Shop.make().vectors, 30, value))),
            "encoder.onnx: the vector of session [31]",
        )
        for value in (np.nan, np.inf, 0.0)
    },
    "encoder not normalised": (_write_encoder(Shop.make(), scale=2.0), "its vectors are not of length 1"),
    "encoder with another signature": (_sealed(_wrong_signature), "not sessions int64 -> vectors float32"),
}
