"""What a model may be taken to think of an item that it has never seen, by what the catalogue says of it.

A ridge regression from attributes to item vectors, fitted on the items that the model knows
(`training.bundling.content`). Attributes become features by this one code, in training and in service: a name
and a weight each, and of the name a digest of 64 bits, so that no vocabulary is kept but the digests.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations, islice, product
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.ranking.retriever import Vectors

CONTENT = "content.npz"
FORMAT = 2
READABLE = (1, FORMAT)  # in 1 there are no pairs: as if none of them had been met in training
EMBEDDING = "embedding"  # an attribute of numbers that the shop has computed of text or pictures
UNREAD = frozenset({"currency", "available", "published_at", "url", "image_url"})  # say nothing of taste
MAX_VALUES = 32  # of a list, and words of a title
MAX_FEATURES = 32_768
BINS_PER_OCTAVE = 2  # of a number
PAIR_WEIGHT = 4.0  # of what two attributes say together, where each of them alone has 1
PAIRED_ATTRIBUTES = 5  # the first so many that are no text, and of each the first so many values:
PAIRED_VALUES = 3  # a pair costs a worker what any feature costs

Values = Mapping[str, object]
Digests = npt.NDArray[np.uint64]
WORD = re.compile(r"\w+")


class ContentFormatError(ValueError):
    """content.npz cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True)
class Calibration:
    """What a cosine with a predicted vector is worth beside one with a vector that was learned."""

    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class Content:
    """Attributes in, unit vectors of the model's out."""

    kinds: Mapping[str, str]  # of the attributes that are read
    head: Literal["native", "niser"]
    calibration: Calibration
    digests: Digests  # (F,) of the features' names, ascending
    weights: npt.NDArray[np.float16]  # (F + E, D): one row a feature, then one a dimension of the embedding
    mean: Vectors  # (D,): of an item of which nothing is known
    measured: Mapping[str, float]  # how it did on items that were held back

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def embedding_dim(self) -> int:
        return len(self.weights) - len(self.digests)

    @cached_property
    def _row_of(self) -> dict[int, int]:
        return {digest: row for row, digest in enumerate(self.digests.tolist())}

    def vector(self, values: Values) -> Vectors | None:
        """The (D,) unit vector of an item; None if none of what is said of it was met in training."""
        found = [
            (self._row_of[digest], weight)
            for digest, weight in digested(values, self.kinds)
            if digest in self._row_of
        ]
        embedding = embedding_of(values, self.embedding_dim)
        if not found and embedding is None:
            return None
        predicted = self.mean.copy()
        if found:
            rows, weights = zip(*found, strict=True)
            predicted += np.array(weights, np.float32) @ self.weights[list(rows)].astype(np.float32)
        if embedding is not None:
            predicted += embedding @ self.weights[len(self.digests) :].astype(np.float32)
        vector: Vectors = unit(predicted[None, :], self.head)[0]
        return vector

    def save(self, file: Path) -> None:
        """Write content.npz."""
        settings = {
            "format": FORMAT,
            "kinds": dict(self.kinds),
            "head": self.head,
            "calibration": asdict(self.calibration),
            "measured": dict(self.measured),
        }
        np.savez(
            file,
            allow_pickle=False,
            settings=np.frombuffer(json.dumps(settings).encode(), np.uint8),
            digests=self.digests,
            weights=self.weights,
            mean=self.mean,
        )

    @classmethod
    def load(cls, file: Path, dim: int) -> Content:
        """Read content.npz. Raises `ContentFormatError`."""
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
                settings = json.loads(saved["settings"].tobytes())
                arrays = {name: saved[name] for name in ("digests", "weights", "mean")}
            if settings["format"] not in READABLE:
                raise ContentFormatError(f"its format is {settings['format']!r}, not {FORMAT}")
            content = cls(
                settings["kinds"],
                settings["head"],
                Calibration(**settings["calibration"]),
                **arrays,
                measured=settings["measured"],
            )
        except ContentFormatError:
            raise
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, OSError) as error:
            raise ContentFormatError(f"cannot be read: {error!r}") from error
        content._check(dim)
        return content

    def _check(self, dim: int) -> None:
        found = "".join(f"{each.dtype}({each.ndim})" for each in (self.digests, self.weights, self.mean))
        if found != "uint64(1)float16(2)float32(1)":
            raise ContentFormatError("its arrays are of other types than content has")
        if self.mean.shape != (dim,) or self.weights.shape[1] != dim or self.embedding_dim < 0:
            raise ContentFormatError(f"its vectors are not of {dim} dimensions")
        if (self.digests[1:] <= self.digests[:-1]).any() or self.head not in ("native", "niser"):
            raise ContentFormatError("its features are not in order, or its head is unknown")
        numbers = (self.calibration.scale, self.calibration.offset)
        if not (
            np.isfinite(self.weights).all() and np.isfinite(self.mean).all() and np.isfinite(numbers).all()
        ):
            raise ContentFormatError("it has weights that are not finite")


def unit(predicted: Vectors, head: str) -> Vectors:
    """(n, D) predicted item vectors, at length 1.

    Under the native head, a vector is `[v; b; filler]`, and the filler meets a 0 in every query: v and b, on
    which scores depend, stay what was predicted, and the filler makes up the length.
    """
    vectors: Vectors = predicted.astype(np.float32)
    if head == "native":
        squares = np.square(vectors[:, :-1]).sum(1)
        vectors[:, -1] = np.sqrt(np.maximum(1 - squares, 0))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Vectors = (vectors / np.maximum(lengths, 1e-6)).astype(np.float32)
    return units


def digested(values: Values, kinds: Mapping[str, str]) -> Iterator[tuple[int, float]]:
    """The features of an item: a digest of the name of each, and its weight."""
    for name, weight in features(values, kinds):
        yield int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"), weight


def features(values: Values, kinds: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """The features of an item, by name: what its attributes say, and what two of them say together.

    Those of one attribute weigh as much together as those of another: a long title says no more than a brand.
    """
    paired = [attribute for attribute, kind in kinds.items() if kind != "text"][:PAIRED_ATTRIBUTES]
    to_pair = []
    for attribute, kind in kinds.items():
        found = list(_of(kind, values.get(attribute)))
        length = math.sqrt(sum(weight * weight for _, weight in found))
        named = [(f"{attribute}={name}", weight / length) for name, weight in found]
        yield from named
        if attribute in paired:
            to_pair.append(named[:PAIRED_VALUES])
    for one, other in combinations(to_pair, 2):
        for (name, weight), (beside, its_weight) in product(one, other):
            yield f"{name}\0{beside}", PAIR_WEIGHT * weight * its_weight


def _of(kind: str, value: object) -> Iterator[tuple[str, float]]:
    """What one value says; nothing, if it is absent or not of its kind."""
    if kind == "text" and isinstance(value, str):
        words = (found.group() for found in WORD.finditer(value.casefold()))
        yield from ((word, 1.0) for word in dict.fromkeys(islice(words, MAX_VALUES)))
    elif kind == "string" and isinstance(value, str):
        yield value, 1.0
    elif kind == "strings":
        yield from ((each, 1.0) for each in dict.fromkeys(_strings(value)))
    elif kind == "bool" and isinstance(value, bool):
        yield str(value), 1.0
    elif kind == "number" and isinstance(value, int | float) and _is_finite(value):
        # Between two bins it belongs to both: what is nearly the same shall not look wholly different.
        place = math.copysign(math.log2(1 + abs(value)), value) * BINS_PER_OCTAVE
        bin_ = math.floor(place)
        yield str(bin_), 1 - (place - bin_)
        if place > bin_:
            yield str(bin_ + 1), place - bin_


def _is_finite(value: float) -> bool:
    return not isinstance(value, bool) and math.isfinite(value)


def _strings(value: object) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return []
    return [each for each in value[:MAX_VALUES] if isinstance(each, str)]


def embedding_of(values: Values, dim: int) -> Vectors | None:
    """The shop's own embedding at length 1; None if there is none of so many dimensions."""
    value = values.get(EMBEDDING)
    if not dim or not isinstance(value, Sequence) or isinstance(value, str) or len(value) != dim:
        return None
    vector = np.array(value, np.float32)
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if 0 < length < math.inf else None
