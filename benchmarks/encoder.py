"""Whether another form of the exported encoder is faster, and what it loses.

    python -m benchmarks.encoder --data artifacts/data/diginetica --bundles artifacts/bundles/<version> …
    python -m benchmarks.encoder --data artifacts/data/diginetica --untrained

Forms of `encoder.onnx`: as exported (onnxruntime optimises it whenever it is loaded); optimised ahead by
onnxruntime, `basic` or `extended`, its weights still beside the graph; weights in int8, multiplied as such;
and weights and products in fp16. Microseconds are the median of one session of L clicks through the service's
own encoder on one thread, the best of several rounds, form by form in turn. `recall@20` and `mrr@20` are in
percent, by exact search over the bundle's item vectors, over the same test cases for all. `--untrained`
takes every model there is at its recipe's size, with the weights it begins with: they take as long.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from benchmarks.retrieval import ranks, sampled_cases
from service.ranking.bundle import ENCODER, Bundle
from service.ranking.encoder import Encoder
from service.ranking.retriever import Retriever
from training.bundling.export import write_encoder
from training.data.dataset import Dataset
from training.learn.registry import find_model, model_names
from training.measure.metrics import mrr_at_k, recall_at_k

LENGTHS = (1, 5, 20, 50)
ROUNDS = 5
REPEATS = 100
TOP = 20


def optimised(level: ort.GraphOptimizationLevel) -> Callable[[Path, Path], None]:
    """The graph as onnxruntime would make it when it loads it, written down."""

    def write(source: Path, target: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(target)
        external = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{external}_file_name", f"{target.name}.data")
        options.add_session_config_entry(f"{external}_min_size_in_bytes", "1024")
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    return write


def int8(source: Path, target: Path) -> None:
    """Weights of products in int8, what they are multiplied with quantised as it comes."""
    model = onnx.load(source)
    del model.graph.value_info[:]  # shapes that the exporter noted, and that the quantiser takes for wrong
    quantize_dynamic(model, target, weight_type=QuantType.QInt8)


def fp16(source: Path, target: Path) -> None:
    """Everything between input and output in fp16."""
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


FORMS: dict[str, Callable[[Path, Path], None]] = {
    "basic": optimised(ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    "extended": optimised(ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    "int8": int8,
    "fp16": fp16,
}


def load(source: Path, max_length: int, directory: Path) -> tuple[dict[str, Encoder], dict[str, object]]:
    """Every form that can be made and loaded, with the milliseconds that loads it; why the others cannot."""
    files = {"as exported": source}
    told: dict[str, object] = {}
    for name, write in FORMS.items():
        files[name] = directory / f"{name}.onnx"
        try:
            write(source, files[name])
        except Exception as error:  # whatever a converter raises is a finding: it cannot convert this
            told[name] = f"cannot be made: {str(error)[:200]}"
            del files[name]
    encoders = {}
    for name, file in files.items():
        began = time.perf_counter()
        try:
            encoders[name] = Encoder(file, max_length)
        except ValueError as error:
            told[name] = f"cannot be served: {str(error)[:200]}"
        else:
            told[name] = round(1000 * (time.perf_counter() - began), 1)
    return encoders, told


def microseconds(encoders: dict[str, Encoder], n_items: int, max_length: int) -> dict[str, dict[str, float]]:
    """By form and length."""
    items = np.random.default_rng(0).integers(1, n_items + 1, max(LENGTHS)).tolist()
    best = {name: dict.fromkeys(map(str, LENGTHS), float("inf")) for name in encoders}
    for _ in range(ROUNDS):
        for length in LENGTHS:
            session = [items[: min(length, max_length)]]
            for name, encoder in encoders.items():
                seconds = []
                for _ in range(REPEATS):
                    began = time.perf_counter()
                    encoder.encode(session)
                    seconds.append(time.perf_counter() - began)
                found = round(1e6 * float(np.median(seconds)), 1)
                best[name][str(length)] = min(best[name][str(length)], found)
    return best


def measure(bundle: Bundle, data: Dataset) -> list[dict[str, object]]:
    """One row for each form."""
    prefixes, targets = sampled_cases(bundle, data)
    retriever = Retriever.build(bundle.retriever.vectors(), "flat")
    with tempfile.TemporaryDirectory() as directory:
        encoders, told = load(bundle.path / ENCODER, bundle.encoder.max_length, Path(directory))
    times = microseconds(encoders, bundle.manifest.n_items, bundle.encoder.max_length)
    rows: list[dict[str, object]] = []
    for name in ("as exported", *FORMS):
        row: dict[str, object] = {"model": bundle.manifest.model, "form": name, "load_ms": told[name]}
        if name in encoders:
            found = ranks(retriever, encoders[name].encode(prefixes), targets)
            row |= {f"L={length}": value for length, value in times[name].items()}
            row["recall@20"] = round(100 * recall_at_k(found, TOP), 2)
            row["mrr@20"] = round(100 * mrr_at_k(found, TOP), 2)
        rows.append(row)
    return rows


def untrained(name: str, data: Dataset) -> dict[str, object]:
    """What a session takes a model as it is exported, before it has learned anything."""
    model = find_model(name).build(data.train_all).eval()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, ENCODER)
        write_encoder(model, file)
        encoder = Encoder(file, model.max_length)
    times = microseconds({"as exported": encoder}, data.info.n_items, model.max_length)["as exported"]
    return {"model": name, "form": "untrained", **{f"L={length}": value for length, value in times.items()}}


def main() -> int:
    """Print one JSON object a row, and write them all to artifacts/benchmarks/encoder.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the data set that they were trained on")
    parser.add_argument("--bundles", type=Path, nargs="+", default=())
    parser.add_argument("--untrained", action="store_true", help="every model, whatever has been trained")
    parser.add_argument("--output", type=Path, default=Path("artifacts/benchmarks/encoder.json"))
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser gives advice
    data = Dataset.load(options.data)
    rows = []
    for path in options.bundles:
        for row in measure(Bundle.load(path), data):
            print(json.dumps(row), flush=True)
            rows.append(row)
    for name in model_names() if options.untrained else ():
        rows.append(untrained(name, data))
        print(json.dumps(rows[-1]), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
