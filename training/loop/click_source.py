"""Where a run's clicks come from."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue, ValidationError

from service.catalogue.attributes import Schema, Values
from service.live.deployment import replace_file
from service.process.embedded_redis import EmbeddedRedisError, redis_at_hand
from service.process.settings import Settings
from service.state.items import ItemStore, Mark
from service.state.link import StoreUnavailable
from training.bundling.content import Attributes
from training.data.clicks import COLLECTED, DIRECTORY, files_of_newest_days, read_commit
from training.data.formats import LogFile, LogFormat, PrepareError
from training.data.partitions import LISTING, Listing, list_files
from training.loop.collect import CollectError, collect


class ClickSource(Protocol):
    """The clicks of a shop, in files by day."""

    @property
    def log_format(self) -> LogFormat: ...

    def collect(self) -> Mapping[str, JsonValue]:
        """Bring in the newest clicks; returns what there is to tell of it."""
        ...

    def files(self, days: int) -> Sequence[LogFile]:
        """The files of the newest days; none when there are no clicks yet."""
        ...

    def attributes(self) -> Attributes | None:
        """What the live catalogue says of items; None if it holds none."""
        ...


@dataclass(frozen=True)
class CollectedClicks:
    """What the collector takes out of the service's click log."""

    settings: Settings

    @property
    def log_format(self) -> LogFormat:
        """What the service feeds to its encoders is what they are trained on."""
        return replace(COLLECTED, events=self.settings.encoder_click_types)

    def collect(self) -> Mapping[str, JsonValue]:
        """Clicks that are missing in the log are told of here, and logged; those that came are learned from.

        Raises `CollectError`, `ClicksError`.
        """
        found = collect(self.settings)
        return {**found.totals.model_dump(), "gaps": [gap.model_dump(mode="json") for gap in found.gaps]}

    def files(self, days: int) -> list[Path]:
        """See `ClickSource`. Raises `ClicksError`."""
        clicks = self.settings.artifacts_dir / DIRECTORY
        return files_of_newest_days(clicks, days) if read_commit(clicks).files else []

    def dated_files(self) -> list[tuple[date, Path]]:
        """Every file, with its day. Raises `ClicksError`."""
        clicks = self.settings.artifacts_dir / DIRECTORY
        return [(file.day, clicks / file.path) for file in read_commit(clicks).files]

    def attributes(self) -> Attributes | None:
        """See `ClickSource`. Raises `CollectError`, `CatalogueFileError`."""
        schema = Schema.of(self.settings)
        try:
            with redis_at_hand(self.settings) as url:
                items = asyncio.run(_all_items(self.settings, url))
        except (EmbeddedRedisError, StoreUnavailable) as error:
            raise CollectError(f"the catalogue cannot be read: {error}") from error
        return Attributes(schema.kinds, items) if items else None


@dataclass(frozen=True)
class PartitionedClicks:
    """A `ClickSource` of what lies below `clicks`, and of what was `collected` if that is wanted, too.

    What is there is listed once a run, and the list is kept below the artifacts: so every step of a run reads
    the same files, also after a kill.
    """

    clicks: str
    own: CollectedClicks
    collected: bool = False

    @property
    def log_format(self) -> LogFormat:
        """As of collected clicks, but for the time, which may be a timestamp or a number."""
        return replace(self.own.log_format, time_format="auto")

    def collect(self) -> Mapping[str, JsonValue]:
        """List what is there. Raises `PrepareError`, and what `CollectedClicks.collect` raises."""
        found = dict(self.own.collect()) if self.collected else {}
        listing = list_files(self.clicks, self.log_format)
        replace_file(self._listing, listing.model_dump_json(indent=1).encode() + b"\n")
        told: dict[str, JsonValue] = {
            "from": self.clicks,
            "files": len(listing.files),
            "rows": sum(file.rows for file in listing.files),
            "first": min(file.first for file in listing.files).isoformat(),
            "last": listing.files[-1].last.isoformat(),
        }
        return {**found, "partitioned": told}

    def files(self, days: int) -> list[LogFile]:
        """The files that hold clicks of the newest days. Raises `PrepareError`."""
        listed = self._read().files
        newest = listed[-1].day
        found: list[LogFile] = []
        if self.collected:
            own = self.own.dated_files()
            newest = max([newest, *(day for day, _ in own)])
            found = [file for day, file in own if (newest - day).days < days]
        return [*found, *(each.file for each in listed if (newest - each.day).days < days)]

    def attributes(self) -> Attributes | None:
        """See `ClickSource`."""
        return self.own.attributes()

    @property
    def _listing(self) -> Path:
        return self.own.settings.artifacts_dir / LISTING

    def _read(self) -> Listing:
        try:
            listing = Listing.model_validate_json(self._listing.read_bytes())
        except (OSError, ValidationError) as error:
            raise PrepareError(f"{self._listing}: cannot be read: begin a new run: --new") from error
        if listing.clicks != self.clicks:
            raise PrepareError(
                f"{self._listing}: lists {listing.clicks}, not {self.clicks}: begin a new run: --new"
            )
        return listing


async def _all_items(settings: Settings, url: str) -> dict[str, Values]:
    store, mark, more = ItemStore(settings, url), Mark(), True
    items: dict[str, Values] = {}
    try:
        while more:
            changes = await store.changes(mark)
            if changes.is_whole:
                items.clear()
            for item_id, values in changes.items:
                if values is None:
                    items.pop(item_id, None)
                else:
                    items[item_id] = values
            mark, more = changes.mark, changes.more
    finally:
        await store.close()
    return items
