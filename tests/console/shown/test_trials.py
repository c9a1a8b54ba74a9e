"""What the page Models says, of answers as the service gives them."""

from __future__ import annotations

from typing import Any

import pytest

from console.shown.trials import (
    bundle_rows,
    change_rows,
    publishing,
    rolling_back,
    share_said,
    standings,
    trying_out,
    withdrawing,
)

LIVE = {
    "judged": 1200,
    "hit_rate@20": 0.312,
    "hit_rate_interval": [0.28, 0.345],
    "mrr@20": 0.121,
    "mrr_interval": None,
    "feedback": 7,
}


def models(**changed: Any) -> dict[str, Any]:
    """GET /models with v1 live, and v2 tried out on a tenth."""
    loaded = [
        {"role": "champion", "version": "v1", "live_quality": LIVE},
        {"role": "challenger", "version": "v2", "live_quality": None},
    ]
    return {
        "loaded": loaded,
        "champion": "v1",
        "previous": "v0",
        "challenger": "v2",
        "challenger_share": 0.1,
        "shadow": None,
        "shadow_share": 0.0,
        "refused": {},
        **changed,
    }


def test_versions_side_by_side() -> None:
    champion, challenger = standings(models())
    assert (champion.role, champion.version, champion.share) == ("champion", "v1", "90 % of sessions")
    assert (champion.judged, champion.feedback) == ("1,200", "7")
    assert champion.hit_rate == "31.2 % (28.0 % – 34.5 %)"
    assert champion.mrr == "0.121", "too few to say how sure that is"
    assert (challenger.share, challenger.judged) == ("10 % of sessions", "Redis does not answer")
    alone = models(challenger=None, challenger_share=0.0, shadow="v2", shadow_share=0.125)
    assert [row.share for row in standings(alone)] == ["100 % of sessions", "12.5 % of sessions, unseen"]


def test_what_is_asked_for_and_not_served_says_why() -> None:
    refused = models(refused={"v2": "items.txt: sha256 differs"}, loaded=models()["loaded"][:1])
    assert standings(refused)[1].problem == "items.txt: sha256 differs"
    loading = models(champion="v3")
    champion = standings(loading)[0]
    assert (champion.version, champion.problem, champion.judged) == (
        "v3",
        "it is not loaded yet",
        "–",
    )
    assert standings(models(champion=None, challenger=None)) == []


def bundle(**changed: Any) -> dict[str, Any]:
    return {
        "version": "v1",
        "roles": [],
        "problem": None,
        "size_bytes": 12_345_678,
        "model": "gru",
        "created_at": "2026-11-24T03:00:00Z",
        "n_items": 43097,
        "metrics": {"recall@20": 54.321, "validation mrr@20": 18.5},
        **changed,
    }


def test_bundles_say_what_can_be_done_with_them() -> None:
    unknown = dict.fromkeys(("model", "created_at", "n_items", "metrics"))
    rows = bundle_rows(
        [
            bundle(),
            bundle(roles=["champion"]),
            bundle(roles=["shadow"]),
            bundle(roles=["previous"]),
            bundle(problem="not JSON", **unknown),
        ]
    )
    assert [row.may_go_live for row in rows] == [True, False, True, True, False]
    assert [row.may_be_tried for row in rows] == [True, False, False, True, False]
    assert (rows[0].created, rows[0].items, rows[0].size) == ("2026-11-24 03:00 UTC", "43,097", "12.3 MB")
    assert (rows[0].recall, rows[0].mrr) == ("54.32 %", "18.50 % (validation)")
    assert (rows[4].created, rows[4].items, rows[4].recall) == ("–", "–", "–")


def test_the_history_in_words() -> None:
    at = 1795491000.0
    told = [("challenger", "v2", 0.1), ("rollback", "v1", None), ("withdraw shadow", "v3", None)]
    changes = [{"at": at, "by": "admin", "action": a, "version": v, "share": s} for a, v, s in told]
    rows = change_rows({"changes": changes})
    assert [row.what for row in rows] == [
        "v2 made the challenger of 10 %",
        "v1 rolled back to",
        "v3 withdrawn as the shadow",
    ]
    assert (rows[0].at, rows[0].by) == ("2026-11-24 03:30 UTC", "admin")


def test_what_will_happen_is_said_before_it_does() -> None:
    both = models(shadow="v3", shadow_share=0.05)
    for text, parts in (
        (
            publishing(both, "v4"),
            ["v4 will answer all sessions but the 10 %", "challenger v2", "v1 answers no more"],
        ),
        (publishing(both, "v2"), ["v2 will answer all sessions, in", "Its trial ends.", "returns to it"]),
        (publishing(both, "v3"), ["Its trial ends."]),
        (publishing(models(champion=None, challenger=None), "v4"), ["v4 will answer all sessions"]),
        (rolling_back(both), ["v0 will answer again", "where v1 does now. Rolling"]),
        (rolling_back(models(previous="v2")), ["v2 will answer again", "Its trial ends."]),
        (
            trying_out(both, "challenger", "v4", 0.25),
            ["v4 will answer 25 %", "v1 the others", "v2, the challenger now"],
        ),
        (
            trying_out(both, "shadow", "v4", 0.5),
            ["50 % of the sessions", "No shopper sees", "v3, the shadow now"],
        ),
        (withdrawing(both, "challenger"), ["v1 will answer the 10 %", "that v2 answers now"]),
        (withdrawing(both, "shadow"), ["v3 will be asked no more"]),
    ):
        assert [part for part in parts if part not in text] == [], text
    assert "no more" not in publishing(models(champion=None, challenger=None), "v4")
    assert "withdrawn" not in trying_out(models(), "shadow", "v4", 0.5)


@pytest.mark.parametrize(
    ("share", "text"), [(0.1, "10 %"), (0.125, "12.5 %"), (1.0, "100 %"), (0.005, "0.5 %")]
)
def test_shares_are_short(share: float, text: str) -> None:
    assert share_said(share) == text
