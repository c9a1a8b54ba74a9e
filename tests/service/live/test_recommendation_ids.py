"""An id says which answer it is of to who knows that, and nothing to anybody else."""

from __future__ import annotations

import re
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.live.recommendation_ids import UNREAD, new_id, parse

IDS = st.text(st.characters(codec="utf-8", min_codepoint=32), min_size=1, max_size=8)


@given(st.lists(IDS, min_size=1, max_size=5), st.lists(IDS, max_size=5), st.integers(1, 100), st.booleans())
def test_an_id_is_of_one_moment_and_one_answer(
    session: list[str], answered: list[str], k: int, exclude_seen: bool
) -> None:
    session_id, *seen = session
    told = new_id("v~1", session_id, seen, k, exclude_seen, answered)
    assert re.fullmatch("v~1~[0-9a-f]{32}", told)
    found = parse(told)
    assert found is not None
    assert (found.version, found.k, found.exclude_seen) == ("v~1", k, exclude_seen)
    assert found.is_moment(session_id, seen)
    assert found.is_answer(session_id, seen, answered)
    for others in ([*seen, "x"], ["x", *seen]):
        assert not found.is_moment(session_id, others)
    assert not found.is_moment(session_id + "x", seen)
    assert not found.is_answer(session_id, seen, [*answered, "x"])
    assert not found.is_answer(session_id, [*seen, "x"], answered), "at another moment"
    assert found.is_answer(session_id, seen, answered[::-1]) == (answered == answered[::-1])


def test_a_session_that_could_not_be_read_is_no_empty_one() -> None:
    empty, unread = (parse(new_id("v1", "s", seen, 20, False, ["b"])) for seen in ((), UNREAD))
    assert empty is not None
    assert unread is not None
    assert (empty.is_moment("s", ()), empty.is_moment("s", UNREAD)) == (True, False)
    assert (unread.is_moment("s", ()), unread.is_moment("s", UNREAD)) == (False, True)


def test_an_id_costs_one_digest_of_what_is_at_hand() -> None:
    """Counted: three calls of Python functions, one hash, two reads of it."""
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            counted[frame.f_code.co_name if event == "call" else argument.__name__] += 1

    sys.setprofile(count)
    try:
        new_id("v1", "s", ["a"] * 50, 20, True, ["b"] * 20)
    finally:
        sys.setprofile(None)
    counted.pop("setprofile")
    assert counted == {
        "new_id": 1,
        "min": 1,
        "_moment": 1,
        "_answer": 1,
        "urandom": 1,
        "join": 2,
        "encode": 2,
        "update": 1,
        "hex": 1,
        "hexdigest": 2,
    }


def test_the_same_answer_has_another_id_each_time_of_which_no_part_stays() -> None:
    told = {new_id("v1", "s", ["a"], 20, False, ["b"]) for _ in range(1000)}
    assert len(told) == 1000
    parts = [parsed for each in told if (parsed := parse(each)) is not None]
    assert len({part.moment for part in parts}) == len({part.answer for part in parts}) == 1000


@pytest.mark.parametrize(
    "text", ["", "v1", "v1~", "~" + 32 * "0", "v1~" + 31 * "0", "v1~" + 33 * "0", "v1~" + 32 * "g"]
)
def test_what_is_no_id_says_nothing(text: str) -> None:
    assert parse(text) is None
