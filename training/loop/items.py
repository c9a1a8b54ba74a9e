"""The catalogue in Redis, from a file and into one.

An import is a series of small batches, each one step: what was acknowledged stays, whatever is killed. What
is there already gets no new number, so that an import that is begun again goes quickly over what it has done.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from service.catalogue.attributes import Item, Schema, Values
from service.process.embedded_redis import EmbeddedRedisError, redis_at_hand
from service.process.settings import Settings
from service.state.items import ItemStore
from service.state.link import StoreUnavailable
from training.data.items import BadRow, write_items

BATCH = 250  # items; Redis serves clicks meanwhile, and takes a millisecond for so many
TIMEOUT_SECONDS = 10.0  # for one answer of Redis
PATIENCE_SECONDS = 30.0  # with a Redis that is restarted, or fails over
PAUSE_SECONDS = 0.5
# Times as long as a batch took, nothing is done: on a small machine, workers have to follow meanwhile.
REST = 5
NICE = 10  # whoever answers shoppers goes first

T = TypeVar("T")


class ImportStoppedError(RuntimeError):
    """Redis was not to be had; what was acknowledged stays, and the same import goes on from there."""


@dataclass
class Imported:
    """What an import did so far."""

    stored: int = 0
    unchanged: int = 0
    refused: int = 0
    deleted: int = 0

    @property
    def rows(self) -> int:
        return self.stored + self.unchanged + self.refused


def import_items(
    settings: Settings,
    rows: Iterable[Item | BadRow],
    *,
    replace: bool = False,
    on_bad_row: Callable[[BadRow], object] = lambda _: None,
    on_batch: Callable[[Imported], object] = lambda _: None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Imported:
    """Store every item of a file; `replace`: and delete all others, if no row was refused.

    `on_batch` is told of what Redis has acknowledged. The process gives way to others from now on. Raises
    `ImportStoppedError`.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))

    async def run(store: ItemStore) -> Imported:
        patient = _Patient(patience_seconds)
        done, batch, ids = Imported(), dict[str, Values](), set[str]()
        clock = asyncio.get_running_loop().time
        began = clock()

        async def flush() -> None:
            nonlocal began
            if batch:
                items = list(batch.items())
                stored, unchanged = await patient(partial(store.put, items))
                done.stored += stored
                done.unchanged += unchanged
                batch.clear()
            on_batch(done)
            await asyncio.sleep(REST * (clock() - began))
            began = clock()

        for row in rows:
            if isinstance(row, BadRow):
                done.refused += 1
                on_bad_row(row)
                continue
            batch[row.item_id] = row.values
            if replace:
                ids.add(row.item_id)
            if len(batch) == BATCH:
                await flush()
        await flush()
        if replace and not done.refused:
            async for found in _pages(store, patient):
                gone = [item_id for item_id, _ in found if item_id not in ids]
                done.deleted += sum(await patient(partial(store.delete, gone)))
        return done

    return _with_store(settings, run)


def export_items(
    settings: Settings,
    file: Path,
    schema: Schema,
    *,
    separator: str,
    patience_seconds: float = PATIENCE_SECONDS,
) -> int:
    """Write the catalogue to a file, and return how many items it has.

    Raises `ImportStoppedError` and `ItemsFileError`.
    """
    return write_items(file, stored_items(settings, patience_seconds), schema, separator=separator)


def stored_items(settings: Settings, patience_seconds: float = PATIENCE_SECONDS) -> list[tuple[str, Values]]:
    """The whole catalogue. Raises `ImportStoppedError`."""

    async def run(store: ItemStore) -> list[tuple[str, Values]]:
        return [item async for page in _pages(store, _Patient(patience_seconds)) for item in page]

    return _with_store(settings, run)


async def _pages(store: ItemStore, patient: _Patient) -> AsyncIterator[list[tuple[str, Values]]]:
    after = ""
    while page := await patient(partial(store.page, after, BATCH)):
        yield page
        after = page[-1][0]


class _Patient:
    """Makes a call again while Redis is not there: each of ours may be made twice."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        while True:
            try:
                return await call()
            except StoreUnavailable:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(min(PAUSE_SECONDS, self._seconds))


def _with_store(settings: Settings, run: Callable[[ItemStore], Awaitable[T]]) -> T:
    async def with_store(url: str) -> T:
        store = ItemStore(settings, url, timeout_seconds=TIMEOUT_SECONDS)
        try:
            return await run(store)
        finally:
            await store.close()

    try:
        with redis_at_hand(settings) as url:
            return asyncio.run(with_store(url))
    except (EmbeddedRedisError, StoreUnavailable) as error:
        raise ImportStoppedError(str(error)) from error
