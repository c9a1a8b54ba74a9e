"""An import into a real Redis: in pieces, again, with `--replace`, and while everything is killed."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from service.catalogue.attributes import Item, Schema, Values
from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state.items import ItemStore
from service.state.keys import Keys
from tests.service.processes import clean_environment
from tests.waiting import DEADLINE_SECONDS, until
from training.data.items import BadRow
from training.loop.items import BATCH, Imported, ImportStoppedError, export_items, import_items

SCHEMA = Schema()


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, redis_timeout_seconds=DEADLINE_SECONDS)


def items(count: int, price: float = 1.0) -> list[Item | BadRow]:
    return [Item(f"i{number:05}", {"price": price}) for number in range(count)]


def catalogue(url: str) -> dict[str, Values]:
    """All items."""

    async def read() -> dict[str, Values]:
        store = ItemStore(Settings(redis_timeout_seconds=DEADLINE_SECONDS), url)
        found: list[tuple[str, Values]] = []
        while page := await store.page(found[-1][0] if found else "", 1000):
            found += page
        await store.close()
        return dict(found)

    return asyncio.run(read())


def test_an_import_again_stores_what_is_new(settings: Settings, redis_url: str) -> None:
    rows = items(2 * BATCH + 5)
    batches: list[int] = []
    done = import_items(settings, rows, on_batch=lambda so_far: batches.append(so_far.rows))
    assert done == Imported(stored=2 * BATCH + 5)
    assert batches == [BATCH, 2 * BATCH, 2 * BATCH + 5]
    assert import_items(settings, rows) == Imported(unchanged=2 * BATCH + 5)
    assert import_items(settings, [Item("i00000", {"price": 2.0}), *rows[1:]]) == Imported(1, 2 * BATCH + 4)
    assert catalogue(redis_url)["i00000"] == {"price": 2.0}


def test_bad_rows_are_told_and_the_others_are_stored(settings: Settings, redis_url: str) -> None:
    told: list[BadRow] = []
    bad = BadRow(3, "x", "price: is no number")
    done = import_items(settings, [*items(3), bad, *items(5)[3:]], on_bad_row=told.append)
    assert (done.stored, done.refused, told) == (5, 1, [bad])


def test_replace_deletes_all_others_unless_a_row_was_refused(settings: Settings, redis_url: str) -> None:
    import_items(settings, items(3 * BATCH))
    bad = BadRow(3, None, "item_id: Field required")
    assert import_items(settings, [*items(BATCH), bad], replace=True).deleted == 0
    assert import_items(settings, items(BATCH), replace=True) == Imported(unchanged=BATCH, deleted=2 * BATCH)
    assert len(catalogue(redis_url)) == BATCH


def test_an_export_has_all_of_it(settings: Settings, tmp_path: Path) -> None:
    import_items(settings, items(BATCH + 1))
    assert export_items(settings, tmp_path / "items.jsonl", SCHEMA, separator="|") == BATCH + 1
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    assert [json.loads(line)["item_id"] for line in lines] == [f"i{n:05}" for n in range(BATCH + 1)]


def test_without_a_service_the_private_redis_is_started_for_the_while(artifacts: Path) -> None:
    settings = Settings(artifacts_dir=artifacts, redis_timeout_seconds=DEADLINE_SECONDS)
    assert import_items(settings, items(10)).stored == 10
    assert import_items(settings, items(10)).unchanged == 10


def test_a_redis_that_is_gone_stops_it(tmp_path: Path) -> None:
    settings = Settings(redis_url=f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(ImportStoppedError):
        import_items(settings, items(1), patience_seconds=0)


def test_a_redis_that_is_killed_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        settings = Settings(redis_url=server.url, redis_timeout_seconds=DEADLINE_SECONDS)

        def rows() -> Iterator[Item | BadRow]:
            for number, row in enumerate(items(4 * BATCH)):
                if number in (BATCH, 2 * BATCH + 7):
                    os.kill(server.pid, signal.SIGKILL)
                    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
                    server.restart_if_dead()
                yield row

        done = import_items(settings, rows(), patience_seconds=DEADLINE_SECONDS)
        assert done.stored + done.unchanged == 4 * BATCH
        assert len(catalogue(server.url)) == 4 * BATCH


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "training", "items", *map(str, arguments)]


def test_a_killed_import_has_whole_batches_and_the_same_command_goes_on(
    tmp_path: Path, redis_url: str, redis_client: Redis
) -> None:
    """It reads from a pipe that is never closed, so that it is certainly in mid-import."""
    pipe = tmp_path / "items.jsonl"
    os.mkfifo(pipe)
    lines = [json.dumps({"item_id": f"i{n:05}", "price": 1}) + "\n" for n in range(5 * BATCH)]
    environment = clean_environment() | {
        "NEXTCLICK_REDIS_URL": redis_url,
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
    }
    process = subprocess.Popen(command("import", pipe), env=environment, cwd=tmp_path)
    try:
        with pipe.open("w") as stream:
            stream.writelines(lines[: 2 * BATCH + 9])
            stream.flush()
            until(lambda: int(redis_client.hlen(Keys().items())) == 2 * BATCH)
            process.kill()
            process.wait()
    finally:
        process.kill()
        process.wait()
    assert redis_client.hlen(Keys().items()) == 2 * BATCH
    pipe.unlink()
    pipe.write_text("".join(lines))
    done = subprocess.run(
        command("import", pipe, "--json"),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {
        "stored": 3 * BATCH,
        "unchanged": 2 * BATCH,
        "refused": 0,
        "deleted": 0,
    }


def test_the_commands_tell_what_they_did(tmp_path: Path, redis_url: str) -> None:
    environment = clean_environment() | {
        "NEXTCLICK_REDIS_URL": redis_url,
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
    }

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    (tmp_path / "catalogue.toml").write_text('[attributes]\ncolour = "string"\n')
    file = tmp_path / "items.csv"
    file.write_text("sku,name,colour,weight\na,Tent,red,3\nb,Stove,,x\n,Lamp,,\n")
    columns = ("--column", "item_id=sku", "--column", "title=name")
    done = run("import", file, *columns, "--rejected", "rejected.csv", "--replace")
    assert done.returncode == 1
    assert done.stdout == "2 items stored, 0 were there already, 0 deleted\n"
    assert "ignored: weight: no such attributes" in done.stderr
    assert "items.csv:4: item_id: " in done.stderr
    assert "error: 1 rows were refused; all others are stored; nothing was deleted" in done.stderr
    assert (tmp_path / "rejected.csv").read_text().splitlines()[1].startswith("4,,item_id: ")
    exported = run("export", "all.jsonl")
    assert (exported.returncode, exported.stdout) == (0, "all.jsonl: 2 items\n")
    again = run("import", "all.jsonl", "--json", "--replace")
    assert (again.returncode, json.loads(again.stdout)["unchanged"]) == (0, 2)
    packed = gzip.compress("item_id,title,colour\na,Möwe,red\n".encode("windows-1252"))
    (tmp_path / "latin.csv.gz").write_bytes(packed)
    assert run("import", "latin.csv.gz", "--encoding", "windows-1252").returncode == 0
    run("export", "all.jsonl")
    assert {"item_id": "a", "colour": "red", "title": "Möwe"} in [
        json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()
    ]
    for wrong in (
        ("import", "missing.csv"),
        ("import", file),
        ("import", file, "--column", "x"),
        ("export", "a.txt"),
    ):
        ended = run(*wrong)
        assert (ended.returncode, ended.stdout) == (2, ""), wrong
        assert "error: " in ended.stderr
