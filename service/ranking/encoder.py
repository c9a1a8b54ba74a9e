"""The session encoder: an ONNX graph run by onnxruntime. The only module that imports onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

# Read when onnxruntime is imported: without it, it keeps usage data under ~/.cache and reports home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

LENGTH_TOLERANCE = 1e-3
RUN_CLICKS = 24  # about as many padded clicks take as long as what a run of the graph begins with


class Interrupt:
    """Ends what an encoder computes in another thread, by an error there; and all that it is asked later."""

    def __init__(self) -> None:
        self.options = ort.RunOptions()

    def __call__(self) -> None:
        self.options.terminate = True


class Encoder:
    """Turns sessions of item indices into L2-normalised session vectors.

    Raises `ValueError` when the file is not an encoder with the bundle's one signature.
    """

    def __init__(
        self, file: Path, max_length: int, threads: int = 1, interrupt: Interrupt | None = None
    ) -> None:
        self._run_options = (interrupt or Interrupt()).options
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no base class
            raise ValueError(f"onnxruntime cannot load it: {error}") from error
        inputs = {i.name: i.type for i in self._session.get_inputs()}
        outputs = {o.name: o.type for o in self._session.get_outputs()}
        if inputs != {"sessions": "tensor(int64)"} or outputs != {"vectors": "tensor(float)"}:
            raise ValueError(f"signature is {inputs} -> {outputs}, not sessions int64 -> vectors float32")
        self.max_length = max_length
        self.dim = self._prove()

    def encode(self, sessions: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Encode non-empty sessions, oldest click first; only the newest `max_length` clicks are used.

        Returns (B, D) float32, each row of length 1.
        """
        if len(sessions) == 1:
            return self.encode_padded(np.array([sessions[0][-self.max_length :]], dtype=np.int64))
        lengths = [min(len(session), self.max_length) for session in sessions]
        vectors = np.empty((len(sessions), self.dim), dtype=np.float32)
        for rows in runs_of(lengths):
            length = lengths[rows[0]]
            padded = np.zeros((len(rows), length), dtype=np.int64)
            for row, session in zip(padded, rows, strict=True):
                recent = sessions[session][-length:]
                row[: len(recent)] = recent
            vectors[rows] = self.encode_padded(padded)
        return vectors

    def encode_padded(self, sessions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Encode (B, L) item indices, right-padded with 0, 1 <= L <= max_length, to (B, D) float32."""
        vectors: npt.NDArray[np.float32] = self._session.run(None, {"sessions": sessions}, self._run_options)[
            0
        ]
        return vectors

    def problem(self, sessions: Sequence[Sequence[int]]) -> str | None:
        """What is wrong with the vectors of some sessions, or None."""
        try:
            lengths = np.linalg.norm(self.encode(sessions), axis=1)
        except Exception as error:  # onnxruntime's own exceptions share no base class
            return f"it does not run on some sessions: {error}"
        bad = np.flatnonzero(~(np.abs(lengths - 1) <= LENGTH_TOLERANCE))  # NaN is within nothing
        if len(bad):
            return f"the vector of session {list(sessions[bad[0]])} has length {lengths[bad[0]]:g}, not 1"
        return None

    def _prove(self) -> int:
        """Run it at its extremes before any request does; returns D."""
        vectors = []
        for shape in ((1, 1), (2, self.max_length)):
            try:
                vectors.append(self.encode_padded(np.ones(shape, dtype=np.int64)))
            except Exception as error:  # as above
                raise ValueError(f"it does not run on sessions of shape {shape}: {error}") from error
            if vectors[-1].ndim != 2 or len(vectors[-1]) != shape[0]:
                raise ValueError(f"sessions of shape {shape} became vectors of shape {vectors[-1].shape}")
            if not np.allclose(np.linalg.norm(vectors[-1], axis=1), 1, atol=LENGTH_TOLERANCE):
                raise ValueError("its vectors are not of length 1")
        return int(vectors[0].shape[1])


def runs_of(lengths: Sequence[int]) -> list[list[int]]:
    """Which sessions to encode together, each the longest of its run first.

    One long session among many short ones would have all of them padded to its length: a run begins where
    that spares more clicks than a run costs.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    runs: list[list[int]] = [[]]
    longest = lengths[order[0]]
    for done, session in enumerate(order):
        if (longest - lengths[session]) * (len(order) - done) > RUN_CLICKS:
            runs.append([])
            longest = lengths[session]
        runs[-1].append(session)
    return runs
