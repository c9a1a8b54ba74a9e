"""Keys in files, as secrets are mounted: exchanged while the service runs."""

from __future__ import annotations

import signal
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from service.live.deployment import publish
from tests.service.bundles import Shop
from tests.service.processes import Service, running
from tests.waiting import alive, until

OLD, NEW, ADMIN = "old-key-0123456789abcdef", "new-key-0123456789abcdef", "admin-key"


def listed(*keys: str) -> str:
    return "".join(f'[[keys]]\nlabel = "{key[:3]}"\nscope = "public"\nkey = "{key}"\n' for key in keys)


def status(service: Service, key: str, path: str = "/trending") -> int:
    """Of an answer; a worker that leaves may close a connection before it."""
    while True:
        with suppress(OSError, HTTPException), closing(HTTPConnection("127.0.0.1", service.port)) as asked:
            asked.request("GET", path, headers={"X-API-Key": key})
            return asked.getresponse().status


def replace_workers(service: Service, *, valid: str) -> None:
    """Have all files read again, by new workers; meanwhile a key is valid without a gap."""
    old = {answer.pid for answer in service.each("/health/ready")}
    service.process.send_signal(signal.SIGHUP)

    def are_replaced() -> bool:
        assert status(service, valid) == 200
        return not any(pid is not None and alive(pid) for pid in old)

    until(are_replaced)


def test_a_key_is_exchanged_while_requests_come(tmp_path: Path) -> None:
    Shop.make().write(tmp_path, "v1")
    publish(tmp_path, "v1")
    file, admin = tmp_path / "keys.toml", tmp_path / "admin"
    file.write_text(listed(OLD))
    admin.write_text(f"{ADMIN}\n")
    environment = {
        "NEXTCLICK_ARTIFACTS_DIR": str(tmp_path),
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
        "NEXTCLICK_KEYS_FILE": str(file),
        "NEXTCLICK_ADMIN_API_KEY_FILE": str(admin),
        "NEXTCLICK_WRONG_KEYS_PER_MINUTE": "0",
    }
    with running(tmp_path, workers=1, **environment) as service:
        service.each("/health/ready")
        assert status(service, ADMIN, "/admin/hidden") == 200
        assert (status(service, OLD), status(service, NEW)) == (200, 403)
        file.write_text(listed(OLD, NEW))
        replace_workers(service, valid=OLD)
        assert (status(service, OLD), status(service, NEW)) == (200, 200)
        file.write_text(listed(NEW))
        replace_workers(service, valid=NEW)
        assert (status(service, OLD), status(service, NEW)) == (403, 200)
        file.write_text("[[keys]]\n")
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "new worker does not start: the old ones stay" in service.log.read_text())
        assert status(service, NEW) == 200
        assert service.end() == 0
        assert not [key for key in (OLD, NEW, ADMIN) if key in service.log.read_text()]
