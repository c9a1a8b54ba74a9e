"""The newest day as it was clicked: what champion and challenger are compared on.

`prepare` keeps of its test sessions what its training sessions know. Here nothing is dropped but sessions of
a single click: an item that is new, or rare, is a miss for a bundle that does not know it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.base import Sessions
from service.ranking.bundle import read_items, write_items
from training.data.dataset import ITEMS, Dataset
from training.data.formats import SECOND, LogFormat, PrepareError, read_log
from training.data.prepare import database
from training.data.sessions import ORDER, cut_by_inactivity, drop_short_sessions
from training.data.split import DAY, split_cut


def write_newest_day(
    files: Sequence[Path],
    log_format: LogFormat,
    data: Dataset,
    output: Path,
    *,
    test_days: float,
    gap_minutes: float,
) -> None:
    """Write the sessions that began in the last `test_days` of the log, in order of their last click.

    Of a session that began earlier, a part may have been trained on. Raises `PrepareError`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        with database(directory) as con:
            log = read_log(con, files, log_format)
            rows = log.rows.filter(log.rows.reason.isnull())
            clicks = con.create_table("clicks", rows.select("session", "item", "time", "tick", "row"))
            gap = round(gap_minutes * 60 * SECOND)
            cutoff = clicks.time.max().to_pyarrow().as_py() - round(test_days * DAY)
            # Whether a session began before the cutoff is told by what was clicked a gap before it.
            recent = con.create_table("recent", clicks.filter(clicks.time >= cutoff - gap))
            if log_format.by_visitor:
                recent = con.create_table("visits", cut_by_inactivity(recent, gap))
            _, late = split_cut(recent, cutoff)
            late = drop_short_sessions(late, 2)
            late = late.mutate(end=late.time.max().over(group_by="session"))
            found = late.order_by("end", "session", *ORDER).select("session", "item").to_pyarrow()
        if not len(found):
            raise PrepareError(f"no session of two clicks began in the last {test_days:g} day(s)")
        session, item = (found[name].combine_chunks().dictionary_encode() for name in ("session", "item"))
        names = item.dictionary.to_pylist()
        index, unknown = _index(names, data.items)
        lengths = np.bincount(session.indices.to_numpy())
        np.save(directory / "items.npy", index[item.indices.to_numpy()])
        np.save(directory / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
        write_items(directory / ITEMS, unknown)
        if output.exists():
            shutil.rmtree(output)
        directory.rename(output)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def with_newest_day(data: Dataset, path: Path) -> Dataset:
    """The data set with the newest day for its test part, and after its own items those that it lacks."""
    items = [*data.items, *read_items(path / ITEMS)]
    clicked, offsets = (np.load(path / name, mmap_mode="r") for name in ("items.npy", "offsets.npy"))
    return replace(data, items=items, test=Sessions(clicked, offsets, len(items)))


def _index(names: list[str], items: Sequence[str]) -> tuple[npt.NDArray[np.int32], list[str]]:
    """The item index of each name, and the names that `items` lacks: they are counted on after it."""
    index_of = {item_id: index for index, item_id in enumerate(items, start=1)}
    unknown = [name for name in names if name not in index_of]
    index_of |= {item_id: index for index, item_id in enumerate(unknown, start=len(items) + 1)}
    return np.array([index_of[name] for name in names], dtype=np.int32), unknown
