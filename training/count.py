"""What `train` does of a counted baseline: count, make a bundle if it can be served, evaluate, record."""

from __future__ import annotations

import resource
from pathlib import Path
from time import perf_counter

from models.base import Hyper
from service.ranking.bundle import Bundle
from service.ranking.neighbours import Neighbours
from training.bundling.export import Provenance, export_neighbours, new_version
from training.data.dataset import Dataset
from training.fit import recent_sessions, source_commit
from training.learn.registry import find_baseline
from training.measure.evaluate import Evaluation, evaluate, evaluate_counted
from training.measure.results import Fitted, headline, measurements


def count(
    baseline: str,
    data: Dataset,
    hyper: dict[str, Hyper],
    artifacts: Path,
    *,
    refit: bool,
    seed: int,
    command: str,
    version: str | None = None,
) -> Fitted:
    """Count `baseline` on the training sessions, with `refit` on the validation sessions, too.

    Nothing is drawn at random: `seed` only says beside which runs the result stands. `version` is
    the bundle's; None names it by the time it is made.

    Raises `ExportError`.
    """
    commit = source_commit()
    started = perf_counter()
    counted = find_baseline(baseline)(data.train_all if refit else data.train, **hyper)
    seconds = perf_counter() - started
    bundle = None
    if isinstance(counted, Neighbours):
        evaluations: list[Evaluation] = []

        def measure(loaded: Bundle) -> dict[str, float]:
            evaluations.append(evaluate(loaded, data, data.test))
            return evaluations[0].unmasked

        bundle = export_neighbours(
            counted,
            data.items,
            recent_sessions(data.train_all),
            Provenance(baseline, seed, hyper, commit, data.info.fingerprint),
            artifacts,
            version or new_version(baseline),
            measure,
        )
        evaluation = evaluations[0]
    else:
        evaluation = evaluate_counted(counted, data, data.test)
    result: dict[str, object] = {
        **headline(baseline, data),
        "command": command,
        "commit": commit,
        "seed": seed,
        "threads": 1,
        "recipe": None,
        "hyperparameters": hyper,
        "trained_on": "training and validation sessions" if refit else "training sessions",
        "epochs": 0,
        "wall_seconds": round(seconds, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "parameters": 0,
        "history": {},
        "bundle": bundle.name if bundle else None,
        **measurements(Bundle.load(bundle) if bundle else None, data, evaluation),
    }
    return Fitted(bundle, result, evaluation)
