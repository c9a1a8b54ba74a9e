"""What a worker takes for a large catalogue: memory above the maps that workers share, start, and lookups.

    python -m benchmarks.large_catalogue --items 10000000 --dim 16

A bundle of a GRU of that size (untrained: weights take the same room) with an index of codes, which is
made once and kept under `--artifacts`. Workers load it one after the other as under the parent process, and
each is measured by the system's count: `RssAnon` is its own memory, `RssFile` pages of files that all may
share. The first one reads all files for their checksums.

The hot path: all that one request asks of ids, twice: of the bundle, and of a tuple and a dict, as it was
before there was a lookup; alternating, in one process, with popularity as in shops and with all items alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

import faiss
import numpy as np

from models.gru import GRUEncoder
from models.sessions import Sessions
from service.live.deployment import bundle_path
from service.live.follower import load_bundle
from service.process.settings import CHECKED_DIRECTORY
from service.ranking.bundle import (
    INDEX,
    ITEMS,
    SCHEMA_VERSION,
    IndexInfo,
    Manifest,
    write_items,
    write_lookup,
    write_manifest,
)
from service.ranking.checksums import file_sha256
from service.ranking.item_ids import IndexOf, ItemIds, ItemTable
from service.ranking.retriever import padded, use_one_thread
from service.ranking.served import Query, ServedBundle
from training.bundling.export import ENCODER, served_item_vectors, write_encoder

CLICKS = 5  # of a session
ANSWERS = 20
LISTS = 1024
AT_ONCE = 100_000  # vectors
ROUNDS = 15
REQUESTS = 1_000  # a round
SERVED = 200  # requests a round that are answered by the model, too


def written(artifacts: Path, n_items: int, dim: int) -> Path:
    """The bundle `v<items>-<dim>`, unless it is there."""
    path = bundle_path(artifacts, f"v{n_items}-{dim}")
    if (path / "manifest.json").exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    clicks = np.array([1, 2, n_items], dtype=np.int32)
    model = GRUEncoder.build(Sessions(clicks, np.array([0, 3]), n_items), dim=dim).eval()
    write_encoder(model, path / ENCODER)
    vectors = served_item_vectors(model)
    del model
    # Of few lists, for these are made in minutes: what it finds is of no matter here.
    width = padded(vectors.shape[1])
    index = faiss.index_factory(width, f"IVF{LISTS},PQ{width // 2}np", faiss.METRIC_INNER_PRODUCT)
    for start in range(0, n_items, AT_ONCE):
        wide = np.zeros((len(vectors[start : start + AT_ONCE]), width), dtype=np.float32)
        wide[:, : vectors.shape[1]] = vectors[start : start + AT_ONCE]
        if not start:
            index.train(wide[: 40 * LISTS])
        index.add(wide)
    faiss.write_index(index, str(path / INDEX))
    write_items(path / ITEMS, [f"sku-{number * 2654435761 % 2**32:010}" for number in range(n_items)])
    write_lookup(path)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        version=path.name,
        model="gru",
        head="native",
        hyperparameters={},
        source_commit="benchmark",
        data_fingerprint="benchmark",
        created_at=datetime.now(UTC),
        n_items=n_items,
        dim=vectors.shape[1],
        max_length=50,
        index=IndexInfo(kind="ivf-pq", recall_at_20=0, n_probe=4),
        metrics={},
        files={file.name: file_sha256(file) for file in path.iterdir()},
    )
    write_manifest(path, manifest)
    return path


def mebibytes() -> dict[str, float]:
    """This process' own memory, and the pages of files that it has mapped and touched."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return {"own": round(kib["RssAnon"] / 1024, 1), "mapped": round(kib["RssFile"] / 1024, 1)}


def worker(artifacts: Path, version: str, answer: Connection) -> None:
    """Load it as a worker does, answer some requests, and tell what that took."""
    use_one_thread()
    before, began = mebibytes(), time.perf_counter()
    served = ServedBundle.of(load_bundle(artifacts, version))
    seconds = time.perf_counter() - began
    rng = np.random.default_rng(1)
    for session in rng.integers(1, served.bundle.manifest.n_items, (200, CLICKS)):
        item_ids = served.bundle.items.of(session.tolist())
        served.rank([Query(served.bundle.index_of.of(item_ids), ANSWERS, ())])
    answer.send({"before": before, "seconds": round(seconds, 1), "after": mebibytes()})
    answer.recv()


def loaded(artifacts: Path, version: str, workers: int) -> list[dict[str, object]]:
    """What each of several workers takes, of which all stay."""
    context, running, found = multiprocessing.get_context("spawn"), [], []
    with tempfile.TemporaryDirectory() as checked:
        os.environ[CHECKED_DIRECTORY] = checked
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=worker, args=(artifacts, version, theirs))
            process.start()
            running.append((process, ours))
            found.append(ours.recv())
        for process, ours in running:
            ours.send("done")
            process.join()
        del os.environ[CHECKED_DIRECTORY]
    return found


class Plain:
    """Ids as they were before: a tuple and a dict, behind the same two calls."""

    def __init__(self, items: ItemIds) -> None:
        self.ids = tuple(items)
        self.index = {item_id: item for item, item_id in enumerate(self.ids)}

    def items_of(self, items: Iterable[int]) -> list[str]:
        """As `ItemIds.of`."""
        ids = self.ids
        return [ids[item] for item in items]

    def index_of(self, item_ids: Sequence[str]) -> list[int]:
        """What a request did: is each known, and where; and which are not."""
        index = self.index
        known = [item_id for item_id in item_ids if item_id in index]
        found = [index[item_id] for item_id in known]
        return found if len([item_id for item_id in item_ids if item_id not in index]) == 0 else []


def hot_path(artifacts: Path, version: str) -> dict[str, dict[str, float]]:
    """Microseconds of a request's lookups, old and new, and of all that the model does for it."""
    use_one_thread()
    served = ServedBundle.of(load_bundle(artifacts, version))
    path = bundle_path(artifacts, version)
    plain, n = Plain(served.bundle.items), served.bundle.manifest.n_items
    table = ItemTable.open(path / ITEMS, path / "items.lookup.npy")
    items, index_of = ItemIds(table), IndexOf(table)
    rng = np.random.default_rng(1)
    shops = (n ** rng.random((REQUESTS, CLICKS + ANSWERS))).astype(np.int64)  # Zipf's: 1 / rank
    alike = rng.integers(1, n + 1, (REQUESTS, CLICKS + ANSWERS))
    told = {}
    for name, chosen in (("as in shops", shops), ("all alike", alike)):
        asked = [plain.items_of(row) for row in chosen[:, :CLICKS].tolist()]
        asked = [[f"{item_id} "[:-1] for item_id in row] for row in asked]  # as they come: other objects
        answered = chosen[:, CLICKS:].tolist()
        taken: dict[str, list[float]] = {"old": [], "new": [], "whole": []}
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for row, out in zip(asked, answered, strict=True):
                plain.index_of(row)
                plain.items_of(out)
            between = time.perf_counter()
            for row, out in zip(asked, answered, strict=True):
                index_of.of(row)
                items.of(out)
            ended = time.perf_counter()
            for row in asked[:SERVED]:
                served.rank([Query(index_of.of(row), ANSWERS, ())])
            taken["old"].append((between - began) / REQUESTS)
            taken["new"].append((ended - between) / REQUESTS)
            taken["whole"].append((time.perf_counter() - ended) / SERVED)
        told[name] = {what: round(1e6 * statistics.median(each), 1) for what, each in taken.items()}
    return told


def main() -> None:
    """Print one JSON object for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts/benchmarks/large"))
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    path = written(options.artifacts, options.items, options.dim)
    sizes = {file.name: round(file.stat().st_size / 1e6, 1) for file in sorted(path.iterdir())}
    print(json.dumps({"megabytes": sizes}), flush=True)
    for found in loaded(options.artifacts, path.name, options.workers):
        print(json.dumps({"worker": found}), flush=True)
    for name, row in hot_path(options.artifacts, path.name).items():
        print(json.dumps({"microseconds": {"requests": name, **row}}), flush=True)


if __name__ == "__main__":
    main()
