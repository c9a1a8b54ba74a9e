"""One service of two workers, as its users start it; each test keeps to sessions of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from service.live.deployment import publish
from tests.service.bundles import Shop
from tests.service.processes import Service, running
from tests.service.serving import ADMIN
from tests.web.wire import Wire

MAX_BODY_BYTES = 3000
SHOP = replace(Shop.make(), items=("blå/1", "b c+d", "ключ", "100%", "🛒?&#", *Shop.make().items[5:]))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    artifacts = tmp_path_factory.mktemp("web")
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    environment = {
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
        "NEXTCLICK_ADMIN_API_KEY": ADMIN["X-API-Key"],
        "NEXTCLICK_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "NEXTCLICK_ACCESS_LOG_SHARE": "1",
    }
    with running(tmp_path_factory.mktemp("service"), workers=2, **environment) as service:
        service.each("/health/ready")
        yield service
        assert service.end() == 0
        failures = [entry["exception"] for entry in service.logged("Exception in ASGI application\n")]
        assert failures == [], "not even by a client that leaves in mid-body"


@pytest.fixture
def port(service: Service) -> int:
    return service.port


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    """A connection that is open."""
    with Wire(port) as wire:
        yield wire


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    """A session id of the test's own, fit to stand in a path."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
