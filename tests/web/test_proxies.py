"""Behind a proxy: whom it says that it speaks for, and the path that it takes away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.live.deployment import publish
from tests.service.processes import Service, running
from tests.service.serving import PATIENT
from tests.web.conftest import SHOP
from tests.web.wire import Wire


@contextmanager
def limited(directory: Path, **environment: str) -> Iterator[Service]:
    """A service that answers one request a minute to each client."""
    SHOP.write(directory, "v1")
    publish(directory, "v1")
    environment |= {
        "NEXTCLICK_ARTIFACTS_DIR": str(directory),
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": str(PATIENT),
        "NEXTCLICK_RATE_LIMIT_PER_MINUTE": "1",
    }
    with running(directory, workers=1, **environment) as service:
        yield service
        assert service.end() == 0


def asked_for(wire: Wire, *clients: str) -> list[int]:
    """The statuses of a request in the name of each."""
    return [wire.ask("GET", "/trending", None, ("X-Forwarded-For", client)).status for client in clients]


def test_nobody_is_believed_by_default(tmp_path: Path) -> None:
    with limited(tmp_path) as service, Wire(service.port) as wire:
        assert asked_for(wire, "203.0.113.1", "203.0.113.2", "203.0.113.3") == [200, 429, 429]


def test_a_trusted_proxy_names_its_clients(tmp_path: Path) -> None:
    trusted = {"NEXTCLICK_TRUSTED_PROXIES": "127.0.0.0/8,10.0.0.1", "NEXTCLICK_ROOT_PATH": "/shop/next"}
    with limited(tmp_path, **trusted) as service, Wire(service.port) as wire:
        assert asked_for(wire, "203.0.113.1", "203.0.113.2", "203.0.113.1") == [200, 200, 429]
        forged = "198.51.100.7, 203.0.113.2, 10.0.0.1"
        assert asked_for(wire, forged) == [429], "what stands before the last one untrusted is hearsay"
        assert wire.ask("GET", "/health/ready").status == 200
        assert wire.ask("GET", "/openapi.json").json()["servers"] == [{"url": "/shop/next"}]


def test_a_customer_is_one_client_whatever_address_he_takes(tmp_path: Path) -> None:
    with limited(tmp_path, NEXTCLICK_TRUSTED_PROXIES="127.0.0.1") as service, Wire(service.port) as wire:
        assert asked_for(wire, "2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1") == [200, 429, 200]
        assert asked_for(wire, "203.0.113.9:4711", "203.0.113.9:4712") == [200, 429]
        assert asked_for(wire, "203.0.113.5", "::ffff:203.0.113.5") == [200, 429]


def test_wrong_keys_are_counted_by_the_client_that_the_proxy_names(tmp_path: Path) -> None:
    settings = {
        "NEXTCLICK_TRUSTED_PROXIES": "127.0.0.1",
        "NEXTCLICK_ADMIN_API_KEY": "right",
        "NEXTCLICK_WRONG_KEYS_PER_MINUTE": "2",
    }
    with limited(tmp_path, **settings) as service, Wire(service.port) as wire:

        def statuses(client: str, *keys: str) -> list[int]:
            return [
                wire.ask("GET", "/admin/hidden", None, ("X-Forwarded-For", client), ("X-API-Key", key)).status
                for key in keys
            ]

        assert statuses("192.0.2.1", "right", "a", "b", "c", "right") == [200, 403, 403, 429, 200]
        assert statuses("203.0.113.1", "a", "b", "right") == [403, 403, 429], "which one it was is not told"
        assert statuses("203.0.113.2", "right") == [200]
