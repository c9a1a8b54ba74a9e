"""The typed Python client: generated from the OpenAPI of this code, then tried over HTTP (`make client`).

It is made at a release and not committed, so that it cannot be another version's. The generator has an
environment of its own: what it needs does not go with our constraints.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from service.http.app import create_app
from service.process.settings import Settings
from tests.browser.storefront import SHOP, storefront

JSON = "application/json"
ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "client"
TRIAL = """
import sys
from nextclick_client import Client
from nextclick_client.api.clicks import click
from nextclick_client.api.recommendations import recommend, recommend_items
from nextclick_client.models import ClickAnswer, ClickBody, RecommendBody, RecommendationAnswer

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
stored = click.sync("visitor-7", client=client, body=ClickBody(item_id="i7"))
assert isinstance(stored, ClickAnswer) and stored.length == 1, stored
answer = recommend.sync(client=client, session_id="visitor-7", k=5)
assert isinstance(answer, RecommendationAnswer) and answer.stage == "model", answer
of_items = recommend_items.sync(client=client, body=RecommendBody(items=["i7"], k=5))
assert isinstance(of_items, RecommendationAnswer), of_items
assert [item.item_id for item in answer.items] == [item.item_id for item in of_items.items]
print(*(item.item_id for item in answer.items))
"""


def document() -> dict[str, object]:
    """The OpenAPI document, with JSON alone where a body may come in several ways, as the generator wants."""
    told = create_app(Settings(redis_url="redis://nobody-asks")).openapi()
    for path in told["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            if JSON in content:
                operation["requestBody"]["content"] = {JSON: content[JSON]}
    return told


def main() -> None:
    """Generate, and try it on a running service."""
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "openapi.json").write_text(json.dumps(document(), indent=1))
    home = BUILD / "venv" / "bin"
    subprocess.run(
        [
            *(home / "openapi-python-client", "generate", "--path", BUILD / "openapi.json", "--overwrite"),
            *("--output-path", BUILD / "nextclick-client", "--meta", "setup", "--fail-on-warning"),
        ],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},  # ruff formats it
        check=True,
    )
    with tempfile.TemporaryDirectory() as place, storefront(Path(place)) as service:
        told = subprocess.run(
            [home / "python", "-c", TRIAL, service.url],
            env={"PYTHONPATH": str(BUILD / "nextclick-client")},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
    assert told == SHOP.nearest(["i7"], 5), told
    print(f"{BUILD / 'nextclick-client'}: generated, and tried over HTTP")


if __name__ == "__main__":
    main()
