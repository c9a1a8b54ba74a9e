"""A leaderboard as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import numpy as np

from training.learn.cards import card
from training.measure.significance import ALPHA, Comparison, against_best
from training.report.leaderboard import Entry, Leaderboard
from training.report.pictures import LATENCY, LENGTH, POPULARITY, TRAINING
from training.report.published import published

BIAS_PICTURE = "popularity.svg"  # the command `popularity` draws it
NONE = "–"


def page(board: Leaderboard, known: Sequence[str], pictures: set[str]) -> str:
    """What was run on the data set, which `known` models were not, and those `pictures` that there are."""
    ranks = {entry.name: entry.first.ranks for entry in board.entries if entry.first.ranks}
    comparisons = [against_best(ranks, metric) for metric in ("recall@20", "mrr@20")]
    parts = [
        f"# {board.dataset}: leaderboard",
        _introduction(board),
        _leaderboard(board, known, comparisons),
        "A name behind a comma is that of a variant: the model with other settings, which its command tells."
        if any(entry.variant for entry in board.entries)
        else "",
        _significance(board, comparisons),
        _sources(board, known),
        "## More metrics",
        "Percent, but popularity@20: the mean number of training clicks of an answered item."
        + (" Here and below: one run a model, its lowest seed." if _several_seeds(board) else ""),
        _metrics(board),
        *_pictures(
            pictures,
            {LENGTH: "Recall@20 by session length"},
            "## By session length",
            "The best model of each family, and S-POP, by the number of clicks in the prefix.",
        ),
        *_pictures(
            pictures,
            {
                POPULARITY: "Recall@20 and popularity of what is recommended",
                BIAS_PICTURE: "Length of item vectors, and popularity of what is recommended",
            },
            "## Popularity",
        ),
        "## Cost",
        "Training is wall-clock time, of selection and refit (with `--refit-epochs`, of the refit alone); the"
        " machine may have had other work. Encoding is the ONNX encoder alone, by the number of clicks in the"
        " session; an answer is a whole one: encoder and search, or neighbours. Both are of one session at a"
        " time, on one thread. Where some models were trained on a GPU and some not, those of the GPU were"
        " timed on another machine: how long they take to answer is not told, and the pictures leave them"
        " out.",
        _cost(board),
        *_pictures(pictures, {LATENCY: "Recall@20 and latency", TRAINING: "Recall@20 and training time"}),
        "## Reproduce",
        _reproduce(board),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(board: Leaderboard) -> str:
    results = [run.result for entry in board.entries for run in entry.runs]
    items = next((f"{result.n_items:,} items and " for result in results if result.n_items), "")
    return (
        f"{items}{results[0].test_cases:,} test cases. Every proper prefix of every test session is a case,"
        " its target the next click; all items are ranked, through the served path, nothing is masked, and a"
        " target stands behind the items it ties with. Every setting was chosen on validation sessions.\n\n"
        "Made by `nextclick report --results docs/results` from the files beside it; do not edit."
    )


def _leaderboard(board: Leaderboard, known: Sequence[str], comparisons: Sequence[Comparison | None]) -> str:
    rows = [
        [
            f"{entry.title} ({entry.cited})",
            entry.family,
            _over_seeds(entry, "recall@20"),
            _over_seeds(entry, "mrr@20"),
            str(published(board.dataset, entry.model) or NONE),
            *(_p(comparison, entry.name) for comparison in comparisons),
        ]
        for entry in board.entries
    ]
    for name in _not_run(board, known):
        model = card(name, 1000)
        figures = str(published(board.dataset, name) or NONE)
        rows.append(
            [f"{model.title} ({model.cited})", model.family, "not run", "not run", figures, NONE, NONE]
        )
    header = [
        "model",
        "family",
        "Recall@20",
        "MRR@20",
        "published Recall@20 / MRR@20",
        "p, Recall@20",
        "p, MRR@20",
    ]
    return table(header, rows, left=2)


def _significance(board: Leaderboard, comparisons: Sequence[Comparison | None]) -> str:
    seeds = "± is the standard deviation over seeds, (n) their number. " if _several_seeds(board) else ""
    made = [comparison for comparison in comparisons if comparison]
    if not made:
        return f"{seeds}p: no two models' ranks were kept, so none are compared."
    titles = {entry.name: entry.title for entry in board.entries}
    best = ", ".join(f"{titles[comparison.best]} by {_title(comparison.metric)}" for comparison in made)
    return (
        f"{seeds}p: two-sided paired t-test against the best model whose ranks were kept ({best}), over the"
        f" {made[0].sessions:,} test sessions' sums of hits or of reciprocal ranks (cases of one session are"
        f" not independent), Holm-corrected for the {len(made[0].p)} comparisons of a column; ≈ marks"
        f" what cannot be told apart (p ≥ {ALPHA}). It compares two trained models, one seed each, not two"
        " architectures."
    )


def _sources(board: Leaderboard, known: Sequence[str]) -> str:
    titles = {entry.model: entry.title for entry in board.entries if not entry.variant}
    titles |= {name: card(name, 1000).title for name in _not_run(board, known)}
    sources = [
        (figures.source, title)
        for name, title in titles.items()
        if (figures := published(board.dataset, name))
    ]
    by_source = groupby(sorted(sources), key=lambda pair: pair[0])
    lines = [f"{source}: {', '.join(title for _, title in pairs)}" for source, pairs in by_source]
    return f"Published figures are those of {'; '.join(lines)}." if lines else ""


def _metrics(board: Leaderboard) -> str:
    names = [f"{metric}@{k}" for k in (5, 10, 20) for metric in ("recall", "mrr", "ndcg")]
    rows = []
    for entry in board.entries:
        test, unseen = entry.first.result.test, entry.first.result.test_without_seen_items
        figures = [
            *(test.get(name) for name in names),
            unseen.get("recall@20"),
            unseen.get("mrr@20"),
            test.get("coverage@20"),
        ]
        popularity = test.get("popularity@20")
        rows.append([entry.title, *(_number(figure, 2) for figure in figures), _number(popularity, 0)])
    unseen_names = ["Recall@20 without seen items", "MRR@20 without seen items"]
    return table(["model", *map(_title, names), *unseen_names, "coverage@20", "popularity@20"], rows)


def _cost(board: Leaderboard) -> str:
    rows = []
    for entry in board.entries:
        result = entry.first.result
        timed = board.times_compare(entry)
        encode, rank = ((timed and of) or {} for of in (result.encode_microseconds, result.rank_microseconds))
        rows.append(
            [
                entry.title,
                result.trained_on,
                _number(result.parameters, 0),
                str(result.epochs),
                str(result.threads) if result.device == "cpu" else "GPU",
                _number(result.wall_seconds / 60, 1),
                _number(result.peak_memory_mib, 0),
                *(_number(encode.get(length), 0) for length in ("1", "5", "20", "50")),
                *(_number(rank.get(quantile), 0) for quantile in ("p50", "p90")),
            ]
        )
    header = ["model", "trained on", "parameters", "epochs", "threads", "training, min", "peak memory, MiB"]
    encoding = [f"encode {length}, µs" for length in (1, 5, 20, 50)]
    return table([*header, *encoding, "answer p50, µs", "answer p90, µs"], rows, left=2)


def _reproduce(board: Leaderboard) -> str:
    runs = [(entry.title, run.result) for entry in board.entries for run in entry.runs]
    rows = [[title, str(run.seed), f"`{run.commit}`", f"`{run.command}`"] for title, run in runs]
    commands = table(["model", "seed", "commit", "command"], rows, left=4)
    return f"<details>\n<summary>Commands and commits</summary>\n\n{commands}\n\n</details>"


def _pictures(there: set[str], wanted: Mapping[str, str], heading: str = "", text: str = "") -> list[str]:
    """Heading, text and those of the `wanted` pictures that are there; nothing if none is."""
    shown = [f"![{caption}]({name})" for name, caption in wanted.items() if name in there]
    return [heading, text, *shown] if shown else []


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; columns after the first `left` are numbers, set to the right."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in [header, rule, *rows])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _over_seeds(entry: Entry, metric: str) -> str:
    figures = [run.result.test[metric] for run in entry.runs]
    if len(figures) == 1:
        return f"{figures[0]:.2f}"
    return f"{np.mean(figures):.2f} ± {np.std(figures, ddof=1):.2f} ({len(figures)})"


def _p(comparison: Comparison | None, name: str) -> str:
    if comparison is None:
        return NONE
    if name == comparison.best:
        return "best"
    p = comparison.p.get(name)
    if p is None:
        return NONE
    text = "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"≈ {text}" if p >= ALPHA else text


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"


def _title(metric: str) -> str:
    name, k = metric.split("@")
    return f"{'Recall' if name == 'recall' else name.upper()}@{k}"


def _not_run(board: Leaderboard, known: Sequence[str]) -> list[str]:
    return sorted(set(known) - {entry.model for entry in board.entries if not entry.variant})


def _several_seeds(board: Leaderboard) -> bool:
    return any(len(entry.runs) > 1 for entry in board.entries)
