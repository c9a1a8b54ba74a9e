"""A bundle as a teacher: what it answers in place of each target becomes a part of what a student learns.

Distillation (Hinton et al., 2015) from the best answers alone (Tang & Wang, KDD 2018), which are few enough
to be asked for once and kept for all epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from models.sessions import Sessions
from service.ranking.bundle import Bundle
from service.ranking.retriever import Items, Scores, search_threads
from training.bundling.blend import is_new
from training.data.dataset import Dataset
from training.learn.answers import MOST, row_of
from training.learn.batches import Examples

AT_ONCE = 512  # prefixes that are encoded and searched together
BLOCK = 8192  # that are written together
CASES = 8192  # of validation, that the scale is fitted on
SCALES = np.geomspace(1, 512, 109)  # a twelfth of a doubling apart
SHARPER = 2.0  # than the likeliest scale: calibrated shares cost MRR (decision 33)
Tell = Callable[[str], object]


class TeacherError(ValueError):
    """This bundle cannot teach here; the message says why."""


@dataclass(frozen=True)
class Teacher:
    """A bundle, and by how much its cosines count in the softmax over its best answers."""

    bundle: Bundle
    scale: float

    @classmethod
    def of(cls, bundle: Bundle, data: Dataset) -> Teacher:
        """With its scale by the newest sessions held back. Raises `TeacherError`."""
        version = bundle.manifest.version
        if not bundle.is_cosine:
            raise TeacherError(f"--teacher: {version} ranks by neighbours: its scores are no cosines")
        if bundle.items[1:] != [*data.items]:
            raise TeacherError(
                f"--teacher: {version} has another item table than {data.path}:"
                " train it on the same prepared data"
            )
        if not is_new(bundle, data):
            raise TeacherError(
                f"--teacher: {version} may have learned from the validation sessions, by which its student"
                " is judged: train it on these data without --refit"
            )
        return cls(bundle, _scale(bundle, data.validation if data.validation.n_targets else data.train))

    def answer(self, sessions: Sessions, file: Path, threads: int, *, resume: bool, tell: Tell) -> None:
        """Write the answers to all targets of `sessions`, in order, found by `threads`. Raises `OSError`.

        To `resume` is to go on behind the whole blocks that are there; a block always comes out the same.
        """
        examples = Examples.of(sessions, "prefixes", self.bundle.manifest.max_length)
        row = row_of(k := min(MOST, sessions.n_items))
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as stream, search_threads(threads):
            done = stream.tell() // row.itemsize if resume else 0
            if done == len(examples):
                return
            done = done // BLOCK * BLOCK if done < len(examples) else 0
            stream.truncate(done * row.itemsize)
            tell(
                f"{self.bundle.manifest.version} answers {len(examples) - done:,} prefixes,"
                f" a softmax of {self.scale:.3g} times its cosines"
            )
            began = perf_counter()
            for start in range(done, len(examples), BLOCK):
                block = _part(examples, slice(start, start + BLOCK))
                scores, items = _answers(self.bundle, block, k)
                rows = np.empty(len(block), row)
                rows["items"] = items
                rows["shares"] = _softmax(self.scale * np.where(items > 0, scores, -np.inf))
                stream.write(rows.tobytes())
                if start == done and start + BLOCK < len(examples):
                    seconds = (perf_counter() - began) / len(block) * (len(examples) - done)
                    tell(f"that takes about {seconds:,.0f} s (measured on {len(block):,} prefixes)")


def _scale(bundle: Bundle, sessions: Sessions) -> float:
    """`SHARPER` than what makes the targets among its best answers likeliest, of the newest `CASES`."""
    examples = Examples.of(sessions, "prefixes", bundle.manifest.max_length)
    newest = _part(examples, slice(max(0, len(examples) - CASES), None))
    scores, items = _answers(bundle, newest, min(MOST, sessions.n_items))
    targets = sessions.items[newest.start + newest.length]
    found = (items == targets[:, None]).any(1)
    if not found.any():
        raise TeacherError(
            f"--teacher: {bundle.manifest.version} finds none of the newest {len(newest):,} targets:"
            " it has nothing to teach"
        )
    is_target = (items == targets[:, None])[found]
    scores = np.where(items > 0, scores, -np.inf)[found]
    likelihoods = [np.log(_softmax(scale * scores)[is_target]).mean() for scale in SCALES]
    return SHARPER * float(SCALES[int(np.argmax(likelihoods))])


def _part(examples: Examples, part: slice) -> Examples:
    return Examples(examples.sessions, examples.batching, examples.start[part], examples.length[part])


def _answers(bundle: Bundle, examples: Examples, k: int) -> tuple[Scores, Items]:
    """The best k items after each prefix, and their cosines, both (N, k)."""
    scores, items = np.zeros((len(examples), k), np.float32), np.zeros((len(examples), k), np.int64)
    for indices in examples.in_order(AT_ONCE):
        vectors = bundle.encoder.encode_padded(examples.batch(indices).sessions.numpy())
        scores[indices], items[indices] = bundle.retriever.search(vectors, k)
    return scores, items


def _softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    shares: npt.NDArray[np.floating] = exponentials / exponentials.sum(1, keepdims=True)
    return shares
