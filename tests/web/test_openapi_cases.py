"""Cases that schemathesis makes of the OpenAPI document: what that says is what a running service does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.live.deployment import publish
from tests.service.bundles import Shop
from tests.service.processes import clean_environment, running
from tests.waiting import DEADLINE_SECONDS

CASES = 1000  # at least, in each of the two runs
KEYS = {"API_KEY": "public-key", "SERVER_API_KEY": "server-key", "ADMIN_API_KEY": "admin-key"}
CHECKS = Path(__file__).with_name("openapi_checks.py")
CONFIGURATION = f"""
hooks = {json.dumps(str(CHECKS))}
continue-on-failure = true
request-timeout = {DEADLINE_SECONDS}
suppress-health-check = ["all"] # they are of the machine's speed

[generation]
deterministic = true # the same cases each time, and no data base of them
max-examples = 40

# A list of 500 items does not fit into a URL that does not fit into a head: 431.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 431]

[checks.negative_data_rejection]
expected-statuses = [401, 403, 404, 405, 409, 413, 422, 431]

# What these are told in words only: `right_input_is_accepted` and `wrong_clicks_of_a_batch_are_refused`.
[[operations]]
include-operation-id = [
    "click", "clicks", "recommend", "recommend_items", "similar", "trending", "preview", "set_placement",
]
checks.positive_data_acceptance.enabled = false

# An item whose id ends like that can be changed, and deleted.
[[operations]]
include-operation-id = "similar"
checks.unsupported_method.enabled = false

[[operations]]
include-operation-id = "clicks"
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false
"""
AUTHENTICATION = """
[auth.openapi]
PublicKey.api_key = "public-key"
ServerKey.api_key = "server-key"
AdminKey.api_key = "admin-key"
"""


@pytest.mark.parametrize("keys", [True, False], ids=["keys", "no keys"])
def test_a_running_service_does_as_its_document_says(tmp_path: Path, keys: bool) -> None:
    artifacts, report, configuration = (tmp_path / name for name in ("artifacts", "report", "cases.toml"))
    for version in ("v1", "v2"):  # there is one to roll back to
        Shop.make().write(artifacts, version)
        publish(artifacts, version)
    configuration.write_text(CONFIGURATION + (AUTHENTICATION if keys else ""))
    variables = {f"NEXTCLICK_{name}": key for name, key in KEYS.items() if keys} | {
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
        "NEXTCLICK_WRONG_KEYS_PER_MINUTE": "1000",  # each operation is tried with some
    }
    with running(tmp_path, workers=2, **variables) as service:
        service.each("/health/ready")
        options = ("--config-file", configuration, "run", f"{service.url}/openapi.json", "--no-color")
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", *options, "--report-json-path", report],
            cwd=tmp_path,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_SECONDS,
            check=False,
        )
        assert service.end() == 0
    found = "\n".join(line[:1000] for line in run.stdout.splitlines() if line)
    assert run.returncode == 0, found + run.stderr
    told = json.loads(report.read_text())
    assert told["operations"]["tested"] == told["operations"]["total"] > 15
    assert {phase["status"] for phase in told["phases"].values()} == {"success"}
    assert told["test_cases"]["generated"] - told["test_cases"]["without_checks"] >= CASES
    fuzzed = {call: rates["fuzzing"]["accepted"] for call, rates in told["valid_rates"].items()}
    assert all(fuzzed[call] for call in ("POST /clicks", "POST /sessions/{session_id}/click")), fuzzed
    assert all(fuzzed[call] for call in ("PUT /items", "PATCH /items/{item_id}", "GET /items")), fuzzed
