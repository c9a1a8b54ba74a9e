"""Trains one model of RecBole 1.2.1, by RecBole's own loop, on the files that `benchmarks/recbole.py` wrote.

    RECBOLE_VENV/bin/python -P benchmarks/recbole_worker.py < request.json

Runs in RecBole's virtual environment and imports nothing of this project. Without `-P`, `import recbole`
would find `benchmarks/recbole.py`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import dok_matrix
from torch import Tensor

# What RecBole uses and newer numpy and scipy no longer have: for machines that have no older ones.
for _name, _type in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
    if not hasattr(np, _name):
        setattr(np, _name, _type)
if not hasattr(dok_matrix, "_update"):
    dok_matrix._update = lambda self, entries: self._dict.update(entries)

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.model.sequential_recommender import BERT4Rec  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402


@dataclass(frozen=True)
class Request:
    """What `benchmarks/recbole.py` asks for."""

    model: str  # RecBole's name of it
    settings: dict[str, Any]  # in RecBole's words; everything else is RecBole's default
    folder: str  # holds NAME.{train,valid,test}.inter, NAME being its own
    length: int  # clicks of a session that are read
    batch_size: int
    threads: int
    seed: int
    warm_up: int = 0  # steps before the clock starts
    steps: int = 0  # steps that are timed
    seconds: float = 0.0  # the clock stops at the latest after so many
    budget_seconds: float = 0.0  # of training and evaluation; no epoch starts that would not fit
    gpu: bool = False
    interactions: bool = False  # the files hold pairs of a user and an item, and no sequences


class MaskAppended(BERT4Rec):  # type: ignore[misc]
    """BERT4Rec that sees the whole session when it recommends; its training is untouched.

    RecBole's own appends the mask and then cuts off the first click, also of a right-padded session that has
    room for both: after a single click it sees nothing but the mask.
    """

    def full_sort_predict(self, interaction: Any) -> Tensor:
        sessions, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]  # (B, L), (B,)
        full = length == sessions.shape[1]  # only these lose their first click
        newest = torch.nn.functional.pad(sessions[:, 1:], (0, 1))
        place = length - full.long()
        sessions = torch.where(full[:, None], newest, sessions)
        sessions[torch.arange(len(sessions)), place] = self.mask_token
        vectors = self.gather_indexes(self.forward(sessions), place)  # (B, D)
        scores: Tensor = vectors @ self.item_embedding.weight[: self.n_items].T + self.output_bias
        return scores


class Clocked:
    """A loader for the timed steps: RecBole's loop has trained on a batch when it asks for the next."""

    def __init__(self, loader: Any, request: Request) -> None:
        self._loader = loader
        self._request = request
        self.steps = 0
        self.examples = 0
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Any]:
        request, batches = self._request, chain.from_iterable(repeat(self._loader))
        for _ in range(request.warm_up):
            yield next(batches)
        began = time.perf_counter()
        while self.steps < request.steps and self.seconds < request.seconds:
            batch = next(batches)
            self.examples += predicted(batch)
            yield batch
            self.steps += 1
            self.seconds = time.perf_counter() - began


def predicted(batch: Any) -> int:
    """Targets in a batch's loss: one a row, or BERT4Rec's masks (it leaves out those at a first click)."""
    masked = batch.interaction.get("MASK_INDEX")
    return len(batch) if masked is None else int((masked > 0).sum())


def configure(request: Request) -> Config:
    """The data format, full evaluation that masks nothing, and what the comparison holds equal."""
    folder = Path(request.folder)
    sequences = {
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "alias_of_item_id": ["item_id_list"],
        "MAX_ITEM_LIST_LENGTH": request.length,
        "loss_type": "CE",
        "train_neg_sample_args": None,
    }
    pairs = {"load_col": {"inter": ["user_id", "item_id"]}}
    return Config(
        model=request.model,
        dataset=folder.name,
        config_dict={
            "data_path": str(folder.parent),
            "checkpoint_dir": str(folder / "saved"),
            "benchmark_filename": ["train", "valid", "test"],
            **(pairs if request.interactions else sequences),
            "train_batch_size": request.batch_size,
            "eval_batch_size": request.batch_size,
            "eval_args": {"order": "TO", "mode": "full"},
            "repeatable": True,  # clicks of the session are ranked like any other item
            "metrics": ["Recall", "MRR"],
            "topk": [20],
            "valid_metric": "MRR@20",
            "metric_decimal_place": 6,
            "use_gpu": request.gpu,
            "gpu_id": "0" if request.gpu else "",
            "seed": request.seed,
            **request.settings,
        },
    )


def answer(request: Request) -> dict[str, Any]:
    """Examples per second if steps are asked for, else the quality after each epoch."""
    torch.set_num_threads(request.threads)
    config = configure(request)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    model_class = MaskAppended if request.model == "BERT4Rec" else get_model(request.model)
    model = model_class(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    if request.interactions and not request.steps:
        return {"history": item_tables(trainer, train, request)}
    if not request.steps:
        return {"history": quality(trainer, train, valid, request.budget_seconds)}
    clocked = Clocked(train, request)
    trainer._train_epoch(clocked, 0)
    return {
        "examples_per_second": clocked.examples / clocked.seconds,
        "examples_per_step": clocked.examples / clocked.steps,
        "steps": clocked.steps,
    }


def quality(trainer: Any, train: Any, valid: Any, budget_seconds: float) -> list[dict[str, float]]:
    """What was seen when; `seconds` are of training alone."""
    history: list[dict[str, float]] = []
    trained = elapsed = 0.0
    while not history or elapsed + elapsed / len(history) <= budget_seconds:
        began = time.perf_counter()
        trainer._train_epoch(train, len(history))
        trained += time.perf_counter() - began
        result = trainer.evaluate(valid, load_best_model=False)
        elapsed += time.perf_counter() - began
        recall, mrr = (100 * float(result[metric]) for metric in ("recall@20", "mrr@20"))
        history.append({"epochs": len(history) + 1, "seconds": trained, "recall@20": recall, "mrr@20": mrr})
        print(json.dumps(history[-1]), file=sys.stderr, flush=True)
    return history


def item_tables(trainer: Any, train: Any, request: Request) -> list[dict[str, Any]]:
    """Trains as `quality` does, but leaves the item vectors of each epoch in a file to be judged elsewhere.

    RecBole ranks by a user's own vector, which a new session does not have. Rows are in our order of items.
    """
    tokens = train.dataset.field2token_id["item_id"]
    order = [tokens[str(item)] for item in range(1, train.dataset.item_num)]
    history: list[dict[str, Any]] = []
    trained = 0.0
    while not history or trained + trained / len(history) <= request.budget_seconds:
        began = time.perf_counter()
        trainer._train_epoch(train, len(history))
        trained += time.perf_counter() - began
        model = trainer.model.eval()
        with torch.no_grad():
            items = model.item_embedding.weight if request.model == "BPR" else model.forward()[1]
            items = items[order].numpy(force=True)
        file = Path(request.folder) / f"{request.model}-{len(history) + 1}.npy"
        np.save(file, items)
        history.append({"epochs": len(history) + 1, "seconds": trained, "items": str(file)})
        print(json.dumps(history[-1]), file=sys.stderr, flush=True)
    return history


def main() -> int:
    """Answer the request on standard input, in the last line of standard output."""
    if sys.argv[1:] == ["--try"]:  # whether RecBole can be imported
        return 0
    print(json.dumps(answer(Request(**json.load(sys.stdin)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
