"""A shop for tests of the click log: clicks that the service acknowledges, and what is collected of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
from redis import Redis
from typer.testing import CliRunner, Result

from service.process.settings import REDIS_URL, Settings, variable
from service.state.keys import Keys
from service.state.store import Click, SessionStore
from training.__main__ import app
from training.data.clicks import Commit, read_commit
from training.loop.click_merge import MAX_FILES_OF_A_DAY
from training.loop.collect import BATCH, Collected, collect

keys = Keys()

DAY = 86_400
NOON = 20_000 * DAY + DAY / 2  # of 2024-10-04

Sent = tuple[str, Click | None]  # a session's click; None asks to erase the session


def click(item_id: str, timestamp: float = NOON, event_id: str | None = None) -> Click:
    return Click(item_id, timestamp, event_id=event_id)


@dataclass(frozen=True)
class Shop:
    """A service's settings, a plain client of its Redis, and the collected clicks."""

    settings: Settings
    client: Redis

    @staticmethod
    def at(artifacts: Path, redis_url: str, client: Redis) -> Shop:
        settings = Settings(
            artifacts_dir=artifacts, redis_url=redis_url, redis_timeout_seconds=10.0, shards=2
        )
        return Shop(settings, client)

    def configured(self, **changed: object) -> Shop:
        return replace(self, settings=self.settings.model_copy(update=changed))

    @property
    def clicks(self) -> Path:
        return self.settings.artifacts_dir / "clicks"

    @property
    def environment(self) -> dict[str, str]:
        """What tells a command all this."""
        fields = (
            "artifacts_dir",
            "click_log_max_entries_per_shard",
            "click_log_max_age_seconds",
            "redis_prefix",
        )
        values = {variable(field): str(getattr(self.settings, field)) for field in fields}
        if self.settings.click_retention_days is not None:
            values[variable("click_retention_days")] = str(self.settings.click_retention_days)
        return values | {REDIS_URL: str(self.settings.redis_url)}

    def send(self, *sent: Sent) -> None:
        """Have the service's store acknowledge one after the other."""
        asyncio.run(self._send(sent))

    async def _send(self, sent: Iterable[Sent]) -> None:
        store = SessionStore(self.settings, str(self.settings.redis_url))
        try:
            for session_id, clicked in sent:
                if clicked is None:
                    await store.erase(session_id)
                else:
                    await store.append(session_id, clicked)
        finally:
            await store.close()

    def forget_events(self) -> None:
        """As Redis does when sessions have expired: then it takes a click anew that it has in its log."""
        self.client.delete(*cast("list[str]", self.client.keys("m:*")))

    def shard(self, session_id: str) -> int:
        return keys.shard_of(session_id, self.settings.shards)

    def log(self, session_id: str) -> str:
        """The stream with the session's clicks."""
        return keys.click_log(self.shard(session_id))

    def logged(self, stream: str) -> list[tuple[str, dict[str, str]]]:
        """The entries of a stream: ids and fields."""
        return cast("list[tuple[str, dict[str, str]]]", self.client.xrange(stream))

    def log_raw(self, stream: str, entry: Mapping[str, str | bytes | int], id_: str = "*") -> None:
        """Add an entry that the service has not made."""
        self.client.execute_command("XADD", stream, id_, *chain(*entry.items()))  # type: ignore[no-untyped-call]

    def collect(
        self,
        batch: int = BATCH,
        max_files_of_a_day: int = MAX_FILES_OF_A_DAY,
        on_commit: Callable[[Commit], object] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> Collected:
        return collect(
            self.settings,
            batch=batch,
            max_files_of_a_day=max_files_of_a_day,
            on_commit=on_commit,
            clock=clock,
        )

    def run(self, *arguments: str) -> Result:
        """`python -m training collect`, in this process."""
        return CliRunner().invoke(app, ["collect", *arguments], env=self.environment)

    @property
    def commit(self) -> Commit:
        return read_commit(self.clicks)

    def collected(self) -> list[tuple[str, Click]]:
        """What the listed files hold, in order."""
        files = [self.clicks / file.path for file in self.commit.files]
        tables = [pq.read_table(file, partitioning=None) for file in files]
        return [
            (row["session_id"], Click(row["item_id"], row["timestamp"], row["type"], row["event_id"]))
            for row in (pa.concat_tables(tables).to_pylist() if tables else [])
        ]

    def items(self) -> list[str]:
        """The items that were clicked, sorted."""
        return sorted(clicked.item_id for _, clicked in self.collected())

    def parquet(self) -> set[str]:
        """Every Parquet file there is, listed or not, whole or not."""
        found = self.clicks.rglob("*")
        return {str(path.relative_to(self.clicks)) for path in found if ".parquet" in path.name}

    def listed(self) -> set[str]:
        """Every file that there should be."""
        return {file.path for file in self.commit.listed}

    def contents(self) -> dict[Path, bytes]:
        """All there is."""
        return {path: path.read_bytes() for path in self.clicks.rglob("*") if path.is_file()}
