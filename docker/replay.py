"""Sends a click log to a running service as if it had all happened up to now.

`replay.py CLICKS.csv URL SESSIONS`: the newest sessions of the log, in the order of their clicks, by
POST /clicks. Needs Python alone. The log is one of `nextclick demo-store`: session_id, item_id,
timestamp in milliseconds.
"""

from __future__ import annotations

import csv
import json
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence

BATCH = 100  # as many as POST /clicks takes
TRIES = 30

Click = dict[str, str | float]


def newest_sessions(file: str, sessions: int, until: float) -> list[Click]:
    """Their clicks, oldest first, so shifted that the last one is at `until` (epoch seconds)."""
    with open(file, newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: int(row["timestamp"]))
    last_click = {row["session_id"]: position for position, row in enumerate(rows)}
    newest = set(sorted(last_click, key=last_click.__getitem__)[-sessions:])
    shift = until - int(rows[-1]["timestamp"]) / 1000
    return [
        {
            "session_id": row["session_id"],
            "item_id": row["item_id"],
            "timestamp": int(row["timestamp"]) / 1000 + shift,
            "event_id": f"replay-{position}",  # sent again after a 503, it counts once
        }
        for position, row in enumerate(rows)
        if row["session_id"] in newest
    ]


def batches(clicks: Sequence[Click]) -> Iterator[Sequence[Click]]:
    """As many clicks as one request may hold, time and again."""
    for start in range(0, len(clicks), BATCH):
        yield clicks[start : start + BATCH]


def send(url: str, batch: Sequence[Click]) -> None:
    """Store a batch, again as long as the service asks for it. Ends the program if a click is refused."""
    body = json.dumps(batch).encode()
    request = urllib.request.Request(f"{url}/clicks", body, {"content-type": "application/json"})
    for _ in range(TRIES):
        with urllib.request.urlopen(request, timeout=30) as answer:
            statuses = [event["status"] for event in json.load(answer)["events"]]
        if 422 in statuses:
            sys.exit(f"error: a click was refused: {statuses}")
        if 503 not in statuses:
            return
        time.sleep(1)
    sys.exit(f"error: clicks are still unavailable after {TRIES} tries")


def main(file: str, url: str, sessions: str) -> None:
    """Replay, and say how much it was."""
    clicks = newest_sessions(file, int(sessions), until=time.time())
    for batch in batches(clicks):
        send(url, batch)
    print(f"replayed {len(clicks)} clicks of {sessions} sessions")


if __name__ == "__main__":
    main(*sys.argv[1:])
