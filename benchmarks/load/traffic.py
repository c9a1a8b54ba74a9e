"""What is sent: shoppers' sessions as HTTP requests, a recommendation after every click."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.data.dataset import Dataset

N_ITEMS = 20  # of a recommendation, when the request names no k
MIN_CLICKS, MAX_CLICKS = 2, 50
LENGTH_EXPONENT = 2.1  # the most likely one for diginetica's sessions
HEAD_ITEMS = (
    10  # Zipf's law begins behind these: without them the first item would have a tenth of all clicks
)
MAX_SHOPPERS = 1000  # whose sessions go on side by side
REQUESTS_OF_SHOPPER = 50  # at least, on average: all of them begin with a click


class Request(NamedTuple):
    """One request as it goes over the wire, and how many items its answer must hold."""

    content: bytes
    n_items: int = 0


Session = Sequence[Request]  # each is sent when the one before it is answered


@dataclass(frozen=True)
class Plan:
    """Requests as they fall due; for each, the number of its session's last one and next one, or -1."""

    requests: list[Request]
    before: list[int]
    after: list[int]


def power_law_clicks(item_ids: Sequence[str], seed: int) -> Iterator[list[str]]:
    """Sessions without end: lengths by a power law, items by Zipf's, the first of them most popular."""
    rng = random.Random(seed)
    lengths = range(MIN_CLICKS, MAX_CLICKS + 1)
    length_weights = list(itertools.accumulate(length**-LENGTH_EXPONENT for length in lengths))
    item_weights = list(itertools.accumulate(1 / (HEAD_ITEMS + rank) for rank in range(len(item_ids))))
    while True:
        length = rng.choices(lengths, cum_weights=length_weights)[0]
        yield rng.choices(item_ids, cum_weights=item_weights, k=length)


def real_clicks(dataset: Dataset, seed: int) -> Iterator[list[str]]:
    """Training sessions of a data set, drawn at random without end."""
    rng = random.Random(seed)
    sessions = dataset.train_all
    while True:
        number = rng.randrange(len(sessions))
        items = sessions.items[sessions.offsets[number] : sessions.offsets[number + 1]]
        yield [dataset.items[item - 1] for item in items.tolist()]


def visits(clicks: Iterable[Sequence[str]], name: str) -> Iterator[Session]:
    """Each click, and after it a recommendation; the sessions are named `name`-0, `name`-1, ..."""
    for number, item_ids in enumerate(clicks):
        session_id = f"{name}-{number}"
        recommendation = recommend(session_id)
        yield [request for item_id in item_ids for request in (click(session_id, item_id), recommendation)]


def click(session_id: str, item_id: str) -> Request:
    """Store a click."""
    body = json.dumps({"item_id": item_id}).encode()
    head = f"POST /sessions/{session_id}/click HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return Request(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)


def recommend(session_id: str) -> Request:
    """Answer a stored session."""
    return Request(f"GET /recommend?session_id={session_id} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), N_ITEMS)


def get(path: str) -> Request:
    """Any answer of status 200 is right."""
    return Request(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())


def interleave(sessions: Iterator[Session], n_requests: int, seed: int) -> Plan:
    """The next request is that of a random one of many shoppers; who is done gives way to a new one."""
    rng = random.Random(seed)
    shoppers = max(1, min(MAX_SHOPPERS, n_requests // REQUESTS_OF_SHOPPER))
    plan = Plan([], [], [-1] * n_requests)
    going = [iter(next(sessions)) for _ in range(shoppers)]
    last = [-1] * shoppers
    for number in range(n_requests):
        shopper = rng.randrange(shoppers)
        request = next(going[shopper], None)
        if request is None:
            going[shopper], last[shopper] = iter(next(sessions)), -1
            request = next(going[shopper])
        plan.requests.append(request)
        plan.before.append(last[shopper])
        if last[shopper] >= 0:
            plan.after[last[shopper]] = number
        last[shopper] = number
    return plan


def due_times(rate: float, seconds: float, ramp_seconds: float) -> npt.NDArray[np.float64]:
    """When each request is due, in seconds: `rate` a second, after a linear ramp from none to it."""
    ramp = np.arange(int(rate * ramp_seconds / 2))
    steady = np.arange(int(rate * seconds))
    return np.concatenate([np.sqrt(2 * ramp_seconds * ramp / rate), ramp_seconds + steady / rate])
