"""The command as it is typed, and its yardstick: the stub answers as the service does."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from benchmarks.load.__main__ import main
from benchmarks.load.stub import create_app
from service.live.deployment import publish
from tests.service.bundles import Shop
from tests.service.serving import item_ids, serving
from tests.training.planted import planted_dataset

SHOP = Shop.make()
# The empty one first: later ones make items trending, which the stub knows nothing of.
SESSIONS: tuple[list[str], ...] = (
    [],
    ["i7"],
    ["i7", "i3", "i7"],
    ["not in the shop", "i9"],
    [f"i{n}" for n in range(1, 15)],
)


@pytest.mark.anyio
@pytest.mark.parametrize("index", ["flat", "hnsw"])
async def test_the_stub_answers_what_the_service_answers(
    artifacts: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    bundle = SHOP.write(artifacts, "v1", "flat" if index == "flat" else "hnsw")
    publish(artifacts, "v1")
    monkeypatch.setenv("STUB_BUNDLE", str(bundle))
    monkeypatch.setenv("STUB_REDIS_URL", redis_url)
    app = create_app()
    stub = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://stub")
    async with app.router.lifespan_context(app), stub, serving(artifacts, redis_url) as service:
        for number, clicks in enumerate(SESSIONS):
            for item_id in clicks:
                answer = await stub.post(f"/sessions/{number}/click", json={"item_id": item_id})
                assert answer.json() == {"session_id": str(number), "length": answer.json()["length"]}
                theirs = await service.click(str(number), item_id)
                assert answer.json()["length"] == theirs.json()["length"]
            found = (await stub.get("/recommend", params={"session_id": str(number)})).json()
            wanted = await service.recommend(str(number))
            assert item_ids(found) == item_ids(wanted)
            assert len(item_ids(found)) == 20
            assert [item["score"] for item in found["items"]] == pytest.approx(
                [item["score"] for item in wanted["items"]], abs=1e-5
            )


def test_one_command_measures_the_service_and_its_yardsticks(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    status = main(
        [
            *("--artifacts", str(artifacts), "--rate", "60", "--seconds", "0.6"),
            *("--workers", "1", "--closed", "2", "--sessions", "20", "--yardsticks"),
        ]
    )
    printed = capsys.readouterr()
    assert status == 0, printed.err
    report = json.loads((artifacts / "benchmarks" / "load.json").read_text())
    assert [row["what"] for row in report["rows"]] == [
        *("service, open loop", "service", "service, recommendations"),
        *("/health/live", "stub", "stub, recommendations"),
    ]
    for row in report["rows"]:
        assert row["what"] in printed.out
        assert row["requests"] > 0
        assert (row["errors"], row["shed"], row["complaints"]) == (0, 0, [])
        assert len(row["runs"]) == 3
        # The kernel counts in hundredths of a second, and the open loop's few requests may take less.
        assert row["cpu_microseconds"]["service"] > 0 or row["what"] == "service, open loop"
    assert report["rows"][0]["requests"] == 36
    assert report["machine"]["cores"] >= 1
    assert report["bundle"]["version"] == "v1"
    assert report["ratios"].keys() == {
        *("service / /health/live", "service / stub", "service, recommendations / stub, recommendations")
    }


def test_a_wrong_answer_is_told_and_fails_the_command(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Shop.make(n_items=10).write(artifacts, "v1")  # so that no recommendation holds 20
    publish(artifacts, "v1")
    assert main(["--artifacts", str(artifacts), "--rate", "60", "--seconds", "0.3", "--workers", "1"]) == 1
    assert "service, open loop: GET /recommend?session_id=open-0-0 HTTP/1.1: status 200, 10 items" in (
        capsys.readouterr().err
    )


def test_a_data_set_of_another_bundle_is_refused(artifacts: Path, tmp_path: Path) -> None:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    planted_dataset(tmp_path / "data")
    with pytest.raises(SystemExit, match=r"fingerprint .* was made of test"):
        main(["--artifacts", str(artifacts), "--data", str(tmp_path / "data")])
