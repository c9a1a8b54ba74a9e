"""What is sent: real or drawn sessions, in order, when they are due."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.load.traffic import due_times, interleave, power_law_clicks, real_clicks, visits
from models.sessions import Sessions
from training.data.dataset import Dataset, DatasetInfo


def test_real_sessions_are_those_of_the_data_set() -> None:
    sessions = Sessions(np.array([1, 2, 3, 3, 1], np.int32), np.array([0, 3, 5]), 3)
    info = DatasetInfo(name="d", n_items=3, n_validation=0, counts={}, options={}, files={})
    dataset = Dataset(Path(), info, ["a", "b", "c"], sessions, sessions)
    drawn = [tuple(item_ids) for item_ids in itertools.islice(real_clicks(dataset, seed=1), 40)]
    assert set(drawn) == {("a", "b", "c"), ("c", "a")}


def test_drawn_sessions_follow_power_laws() -> None:
    drawn = list(itertools.islice(power_law_clicks([str(i) for i in range(1000)], seed=1), 20_000))
    lengths = Counter(map(len, drawn))
    assert min(lengths) == 2
    assert max(lengths) <= 50
    assert 3.5 < lengths[2] / lengths[4] < 5.2, "2 to the power of 2.1 is 4.3"
    items = Counter(item_id for item_ids in drawn for item_id in item_ids)
    assert 8 < items["0"] / items["90"] < 12.5, "100 / 10 by Zipf's law"


def test_each_click_is_followed_by_a_recommendation_for_its_session() -> None:
    first, second = visits([["a", 'b"ü'], ["c"]], "run")
    lines = [request.content.split(b"\r\n")[0].decode() for request in [*first, *second]]
    assert lines == [
        *["POST /sessions/run-0/click HTTP/1.1", "GET /recommend?session_id=run-0 HTTP/1.1"] * 2,
        *["POST /sessions/run-1/click HTTP/1.1", "GET /recommend?session_id=run-1 HTTP/1.1"],
    ]
    head, body = first[2].content.split(b"\r\n\r\n")
    assert json.loads(body) == {"item_id": 'b"ü'}
    assert f"content-length: {len(body)}" in head.decode()
    assert [request.n_items for request in first] == [0, 20, 0, 20]


def test_interleaved_sessions_stay_in_order_and_half_of_all_are_recommendations() -> None:
    sessions = [list(session) for session in visits([["a"] * n for n in [1, 5, 2] * 300], "s")]
    plan = interleave(iter(sessions), n_requests=1000, seed=1)
    assert len(plan.requests) == 1000
    assert 480 <= sum(request.n_items > 0 for request in plan.requests) <= 500
    begun = [number for number in range(1000) if plan.before[number] < 0]
    by_first_request = {session[0]: session for session in sessions}
    assert len({plan.requests[number] for number in begun}) == len(begun) > 100
    for number in begun:
        session, sent = by_first_request[plan.requests[number]], []
        while number >= 0:
            sent.append(plan.requests[number])
            following = plan.after[number]
            assert following < 0 or (plan.before[following] == number and following > number)
            number = following
        assert sent == session[: len(sent)]


def test_the_rate_grows_linearly_and_then_stays() -> None:
    due = due_times(rate=100, seconds=3, ramp_seconds=2)
    assert [int((due < second).sum()) for second in (1, 2, 3, 4, 5)] == [25, 100, 200, 300, 400]
    assert (np.diff(due) > 0).all()
    assert np.allclose(np.diff(due[100:]), 0.01)
