"""Artifacts in an object store: no change is lost, nobody sees half a bundle, an outage stops nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from service.live.artifacts import Artifacts, fetch_bundle, share_bundle, take_away_bundles
from service.live.deployment import (
    FILE,
    Deployment,
    DeploymentConflict,
    bundle_path,
    challenge,
    hide,
    prune,
    publish,
    read_deployment,
    rollback,
    update_deployment,
)
from service.live.history import read_history
from service.live.mirror import Mirror, outage, read_status
from service.live.object_store import ObjectStore, ObjectStoreError, reason
from service.process.settings import Settings, SettingsError, load_settings
from service.ranking.bundle import MANIFEST, BundleError
from tests.object_stores import KEY_ID, S3, SECRET, s3
from tests.service.bundles import Shop
from tests.service.processes import Service, clean_environment, running
from tests.waiting import DEADLINE_SECONDS, until
from training.__main__ import app

DAY = timedelta(days=1)
WRITERS, CHANGES = 4, 20
WRITE = """
import sys
from pathlib import Path
from service.live.artifacts import Artifacts
from service.live.deployment import update_deployment
from service.live.history import Change

place, name = Artifacts(Path(sys.argv[1]), sys.argv[2]), sys.argv[3]
for number in range(int(sys.argv[4])):
    item = f"{name}-{number}"
    update_deployment(
        place,
        lambda old: old.model_copy(update={"hidden": (*old.hidden, item)}),
        told=lambda _, __: Change(at=number, by=item, action="publish", version="v1"),
    )
"""


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3() as found:
        found.make_bucket("shop")
        yield found


@pytest.fixture
def url(server: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store, and an environment that may ask it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://shop/{uuid4().hex}"


def machine(directory: Path, url: str, name: str = "a", *versions: str) -> Artifacts:
    """Artifacts of one machine, with some bundles that the store may not have yet."""
    place = Artifacts(directory / name, url)
    for seed, version in enumerate(versions):
        Shop.make(n_items=30, seed=seed).write(place.directory, version)
    return place


def settled(mirror: Mirror, place: Artifacts, version: str) -> None:
    def has_followed() -> bool:
        mirror.look()
        return read_deployment(place.directory).champion == version

    until(has_followed)


def objects(place: Artifacts) -> list[str]:
    assert place.store is not None
    return sorted(each.name for each in place.store.list(""))


def test_writers_on_four_machines_lose_no_change(server: S3, url: str, tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(tmp_path / name), url, name, str(CHANGES)],
            env=clean_environment() | server.environment,
        )
        for name in "abcd"[:WRITERS]
    ]
    assert [writer.wait(DEADLINE_SECONDS) for writer in writers] == [0] * WRITERS
    names = {f"{name}-{number}" for name in "abcd" for number in range(CHANGES)}
    place = Artifacts(tmp_path / "reader", url)
    mirror = Mirror(place)
    mirror.look()
    assert sorted(read_deployment(place.directory).hidden) == sorted(names)
    changes, unreadable = read_history(place.directory)
    assert sorted(change.by for change in changes) == sorted(names)
    assert unreadable == 0


def test_two_changes_at_once_are_both_made_and_both_told(url: str, tmp_path: Path) -> None:
    a, b = machine(tmp_path, url, "a", "v1", "v2"), Artifacts(tmp_path / "b", url)
    publish(a, "v1")
    share_bundle(a, "v2")
    tried: list[Deployment] = []

    def change_between(old: Deployment) -> Deployment:
        if not tried:
            challenge(b, "v2", 0.5, by="b")
        tried.append(old)
        return old.model_copy(update={"exclude_seen": True})

    update_deployment(a, change_between)
    assert len(tried) == 2, "the first try lost, and was made again on what had won"
    now = read_deployment(a)
    assert (now.exclude_seen, now.challenger) == (True, "v2")
    publish(a, "v2", by="a")
    changes, _ = read_history(a.directory)
    assert [(each.action, each.by) for each in changes] == [
        ("publish", "a"),
        ("challenger", "b"),
        ("publish", "command"),
    ]


def test_who_never_gets_a_turn_is_told_and_changes_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, other = machine(tmp_path, url, "a", "v1"), Artifacts(tmp_path / "b", url)
    publish(place, "v1")
    monkeypatch.setattr("service.live.deployment.attempts", lambda: iter([None, None]))
    count = iter(range(9))
    found = ObjectStore(url)

    def outrun(old: Deployment) -> Deployment:
        read = found.read(FILE)
        found.replace(FILE, json.dumps({"champion": "v1", "hidden": [f"i{next(count)}"]}).encode(), read)
        return old.model_copy(update={"exclude_seen": True})

    with pytest.raises(DeploymentConflict, match="others change it all the time"):
        update_deployment(other, outrun)
    assert (read_deployment(place).exclude_seen, read_deployment(place).hidden) == (False, ("i1",))


def test_a_write_whose_answer_was_lost_is_known_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one rollback would be two."""
    import obstore

    store, put = ObjectStore(url), obstore.put

    def twice(*arguments: Any, **options: Any) -> object:
        put(*arguments, **options)
        return put(*arguments, **options)

    monkeypatch.setattr(obstore, "put", twice)
    assert store.replace(FILE, b"1", None)
    assert store.replace(FILE, b"2", store.read(FILE))
    monkeypatch.undo()


def test_an_upload_that_was_cut_off_is_no_bundle(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = machine(tmp_path, url, "a", "v1", "v2")
    publish(place, "v1")
    upload, files = ObjectStore.upload, list[str]()

    def cut_off(store: ObjectStore, name: str, file: Path) -> None:
        if len(files) == 2:
            raise KeyboardInterrupt
        files.append(name)
        upload(store, name, file)

    monkeypatch.setattr(ObjectStore, "upload", cut_off)
    with pytest.raises(KeyboardInterrupt):
        publish(place, "v2")
    monkeypatch.setattr(ObjectStore, "upload", upload)
    assert read_deployment(place).champion == "v1"
    assert sum("bundles/v2/" in name for name in objects(place)) == 2
    other = Artifacts(tmp_path / "b", url)
    fetch_bundle(other, "v2")
    assert not bundle_path(other.directory, "v2").exists()
    with pytest.raises(BundleError, match=f"no such bundle, neither here nor in {url}"):
        publish(other, "v2")
    prune(place, keep=9)
    assert sum("bundles/v2/" in name for name in objects(place)) == 2, "it may be under way"
    monkeypatch.setattr("service.live.artifacts.LEFT_OVER", -1 * DAY)
    assert take_away_bundles(ObjectStore(url), 9, {"v1"}) == {}
    assert not any("bundles/v2/" in name for name in objects(place))
    assert f"bundles/v1/{MANIFEST}" in objects(place)
    publish(place, "v2")  # from the beginning
    fetch_bundle(other, "v2")
    assert bundle_path(other.directory, "v2").is_dir()


def test_a_bundle_that_was_altered_in_the_store_is_never_shown_to_workers(url: str, tmp_path: Path) -> None:
    place = machine(tmp_path, url, "a", "v1", "v2")
    publish(place, "v1")
    there = Artifacts(tmp_path / "b", url)
    mirror = Mirror(there, again_seconds=0)
    settled(mirror, there, "v1")
    publish(place, "v2")
    (tmp_path / "x").write_bytes(b"something else")
    ObjectStore(url).upload("bundles/v2/items.txt", tmp_path / "x")
    hide(place, "i1")

    def follows_what_needs_no_bundle() -> bool:
        mirror.look()
        return read_deployment(there.directory).hidden == ("i1",)

    with capture_logs() as logs:
        until(follows_what_needs_no_bundle)

        def is_told() -> bool:
            mirror.look()
            return any("items.txt: sha256 differs" in str(each) for each in logs)

        until(is_told)
    assert read_deployment(there.directory).champion == "v1"
    assert [path.name for path in (there.directory / "bundles").glob("v*")] == ["v1"]
    ObjectStore(url).upload("bundles/v2/items.txt", bundle_path(place.directory, "v2") / "items.txt")
    settled(mirror, there, "v2")


def test_what_was_pruned_is_published_no_more_and_what_is_needed_stays(url: str, tmp_path: Path) -> None:
    place, other = machine(tmp_path, url, "a", "v1", "v2", "v3"), Artifacts(tmp_path / "b", url)
    for version in ("v3", "v1", "v2"):
        publish(place, version)
    assert prune(place, keep=0) == ["v3"]
    assert f"bundles/v3/{MANIFEST}" not in objects(place)
    with pytest.raises(BundleError, match="neither here nor in"):
        publish(other, "v3")
    fetch_bundle(other, "v1")
    rollback(other)
    assert read_deployment(place).champion == "v1"


def test_a_directory_moves_into_a_store_with_its_first_change(url: str, tmp_path: Path) -> None:
    place = machine(tmp_path, url, "a", "v1", "v2")
    publish(place.directory, "v1")
    publish(place.directory, "v2")
    hide(place.directory, "i9")
    hide(place, "i8")
    assert read_deployment(Artifacts(tmp_path / "b", url)) == read_deployment(place.directory)
    assert read_deployment(place).hidden == ("i8", "i9")
    assert {f"bundles/{version}/{MANIFEST}" for version in ("v1", "v2")} <= set(objects(place))


def test_a_store_that_is_down_is_told_once_and_stops_nothing(server: S3, url: str, tmp_path: Path) -> None:
    place, there = machine(tmp_path, url, "a", "v1", "v2"), Artifacts(tmp_path / "b", url)
    publish(place, "v1")
    mirror = Mirror(there, again_seconds=0)
    settled(mirror, there, "v1")
    assert outage(there.directory) is None
    with capture_logs() as logs:
        server.down()
        try:
            for _ in range(3):
                mirror.look()
            before = {file: file.read_bytes() for file in there.directory.glob("deployment*")}
            with pytest.raises(ObjectStoreError, match=rf"{url}: .* cannot be read: .*error sending request"):
                publish(there, "v1")
            done = CliRunner().invoke(
                app,
                ["publish", "--bundle", "v2", "--artifacts", str(place.directory)],
                env={"NEXTCLICK_ARTIFACTS_URL": url},
            )
            assert (done.exit_code, "cannot be read" in done.output) == (1, True), done.output
            assert {file: file.read_bytes() for file in there.directory.glob("deployment*")} == before
            assert "the object store is not followed since" in (outage(there.directory) or "")
        finally:
            server.up()
        assert read_deployment(place).champion == "v1"
        publish(place, "v2")
        settled(mirror, there, "v2")
    warnings = [each["event"] for each in logs if each["log_level"] == "warning"]
    assert warnings == ["artifacts cannot be followed: serving goes on with what there is"]
    assert SECRET not in str(logs)
    status = read_status(there.directory)
    assert status is not None
    assert (status.problem, outage(there.directory)) == (None, None)


def ready(service: Service) -> bool:
    return service.ask("GET", "/health/ready").status == 200


def test_from_a_store_to_an_answer_and_back(
    server: S3, url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service on an empty directory: it mirrors, answers, follows, and goes on while the store is down."""
    trainer = machine(tmp_path, url, "trainer", "v1", "v2")
    monkeypatch.setenv("NEXTCLICK_ARTIFACTS_URL", url)

    def command(*words: str) -> None:
        done = CliRunner().invoke(app, [*words, "--artifacts", str(trainer.directory)])
        assert done.exit_code == 0, done.output

    command("publish", "--bundle", "v1")
    environment = server.environment | {
        "NEXTCLICK_ARTIFACTS_URL": url,
        "NEXTCLICK_REDIS_URL": redis_url,
        "NEXTCLICK_ADMIN_API_KEY": "admin-key-0123456789",
        "NEXTCLICK_DEPLOYMENT_POLL_SECONDS": "0.05",
        "NEXTCLICK_LOG_FORMAT": "json",
    }
    with running(tmp_path, workers=1, **environment) as service:

        def answers(version: str) -> bool:
            return (
                ready(service)
                and service.ask("POST", "/recommend", {"items": ["i1"]}).json()["version"] == version
            )

        until(lambda: answers("v1"))
        command("publish", "--bundle", "v2")
        until(lambda: answers("v2"))
        command("rollback")
        until(lambda: answers("v1"))
        key = {"X-API-Key": "admin-key-0123456789"}
        assert service.ask("POST", "/admin/activate", {"version": "v2"}, **key).status == 200
        assert read_deployment(trainer).champion == "v2"
        assert service.ask("PUT", "/admin/hidden/i3", **key).status in (200, 204)
        assert read_deployment(trainer).hidden == ("i3",)
        assert "nextclick_artifacts_behind_seconds" in until(
            lambda: text if "artifacts_behind" in (text := service.metrics()) else None
        )
        server.down()
        try:
            until(lambda: service.warnings("the object store is not followed"))
            assert answers("v2"), "it serves on"
            refused = service.ask("POST", "/admin/rollback", **key)
            assert (refused.status, "cannot be read" in refused.text) == (503, True), refused
        finally:
            server.up()
        until(lambda: not service.warnings("the object store is not followed"))
        command("rollback")
        until(lambda: answers("v1"))
        assert service.end() == 0
        assert len(service.logged("artifacts cannot be followed: serving goes on with what there is")) == 1
        written = service.log.read_text()
        assert SECRET not in written
        assert KEY_ID not in written


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("NEXTCLICK_ARTIFACTS_DIR", "s3://shop/x", "is a URL: a store is named by NEXTCLICK_ARTIFACTS_URL"),
        ("NEXTCLICK_ARTIFACTS_URL", "s3://key:secret@shop/x", "is no store's URL"),
        ("NEXTCLICK_ARTIFACTS_URL", "/srv/artifacts", "is no store's URL"),
        ("NEXTCLICK_ARTIFACTS_URL", "https://shop/x", "is no store's URL"),
    ],
)
def test_what_is_no_place_is_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert f"{name}: {message}" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_url_is_no_directory_for_a_command() -> None:
    done = CliRunner().invoke(app, ["rollback", "--artifacts", "s3://shop/x"])
    assert done.exit_code == 2
    assert "is a URL" in done.output
    assert not Path("s3:").exists()


def test_without_the_package_the_start_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.live.object_store.find_spec", lambda _: None)
    with pytest.raises(ObjectStoreError, match=r"pip install 'nextclick\[store\]'"):
        _ = Artifacts(tmp_path, "s3://shop/x").store
    assert Artifacts.of(Settings(redis_url=None, artifacts_dir=tmp_path)).store is None


def test_what_a_store_says_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_KEY", "sig=hush")
    said = (
        "Error performing GET https://x.example/a?sv=1&sig=hush in 1s - 403 Forbidden: <?xml?><Error>"
        "<Code>InvalidAccessKeyId</Code><AWSAccessKeyId>hush</AWSAccessKeyId></Error>\n\nDebug source: hush"
    )
    told = reason(RuntimeError(said))
    assert told == "Error performing GET https://x.example/a in 1s - 403 Forbidden (InvalidAccessKeyId)"


def test_a_bucket_that_is_not_there_is_no_empty_store(url: str, tmp_path: Path) -> None:
    with pytest.raises(ObjectStoreError, match="there is no such bucket"):
        read_deployment(Artifacts(tmp_path, "s3://nowhere/x"))
