"""What the page Models shows, and what its changes will do in words; without NiceGUI."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from console.watching.figures import percent, thousandths, with_interval

Json = Mapping[str, Any]
Role = Literal["challenger", "shadow"]

EFFECT = {
    "publish": "published",
    "rollback": "rolled back to",
    "challenger": "made the challenger",
    "shadow": "made the shadow",
    "withdraw challenger": "withdrawn as the challenger",
    "withdraw shadow": "withdrawn as the shadow",
}


@dataclass(frozen=True)
class Standing:
    """A version that has a role, and how it does live."""

    role: str
    version: str
    share: str
    judged: str
    hit_rate: str
    mrr: str
    feedback: str
    problem: str | None = None  # why it does not answer, though it should


@dataclass(frozen=True)
class BundleRow:
    """A bundle that lies in artifacts/bundles."""

    version: str
    roles: tuple[str, ...]
    model: str
    created: str
    items: str
    size: str
    recall: str
    mrr: str
    problem: str | None

    @property
    def may_go_live(self) -> bool:
        """Whether it can be published: it is not live, and nothing is known to be wrong with it."""
        return self.problem is None and "champion" not in self.roles

    @property
    def may_be_tried(self) -> bool:
        """Whether it can become challenger or shadow: a version has one role."""
        return self.problem is None and not {"champion", "challenger", "shadow"}.intersection(self.roles)


@dataclass(frozen=True)
class ChangeRow:
    """Somebody changed what is live."""

    at: str
    what: str
    by: str


def standings(models: Json) -> list[Standing]:
    """What deployment.json asks for, by role; what is not loaded is there with the reason."""
    loaded = {model["role"]: model for model in models["loaded"]}
    shares = {
        "champion": 1 - models["challenger_share"] if models["challenger"] else 1.0,
        "challenger": models["challenger_share"],
        "shadow": models["shadow_share"],
    }
    found = []
    for role, share in shares.items():
        version = models[role]
        if version is None:
            continue
        model = loaded.get(role)
        problem = models["refused"].get(version)
        is_loaded = model is not None and model["version"] == version
        if problem is None and not is_loaded:
            problem = "it is not loaded yet"
        told = f"{share_said(share)} of sessions" + (", unseen" if role == "shadow" else "")
        quality = _quality(model["live_quality"]) if model is not None and is_loaded else ("–",) * 4
        found.append(Standing(role, version, told, *quality, problem))
    return found


def _quality(live: Json | None) -> tuple[str, str, str, str]:
    if live is None:
        return ("Redis does not answer", "–", "–", "–")
    return (
        f"{live['judged']:,}",
        with_interval(live["hit_rate@20"], live.get("hit_rate_interval"), percent),
        with_interval(live["mrr@20"], live.get("mrr_interval"), thousandths),
        f"{live['feedback']:,}",
    )


def bundle_rows(bundles: Sequence[Json]) -> list[BundleRow]:
    """GET /admin/bundles, as a table shows it."""
    return [
        BundleRow(
            version=each["version"],
            roles=tuple(each["roles"]),
            model=each["model"] or "–",
            created=moment_of_iso(each["created_at"]),
            items="–" if each["n_items"] is None else f"{each['n_items']:,}",
            size=size_said(each["size_bytes"]),
            recall=_metric(each["metrics"], "recall@20", "%"),
            mrr=_metric(each["metrics"], "mrr@20", "%"),
            problem=each["problem"],
        )
        for each in bundles
    ]


def _metric(metrics: Json | None, name: str, unit: str) -> str:
    """Of the test, or of validation where the test was not asked."""
    for prefix in ("", "validation "):
        if metrics and (value := metrics.get(prefix + name)) is not None:
            return f"{value:.2f} {unit}" + (" (validation)" if prefix else "")
    return "–"


def change_rows(history: Json) -> list[ChangeRow]:
    """GET /admin/history, in words."""
    rows = []
    for each in history["changes"]:
        share = f" of {share_said(each['share'])}" if each["share"] is not None else ""
        what = f"{each['version']} {EFFECT.get(each['action'], each['action'])}{share}"
        rows.append(ChangeRow(moment(each["at"]), what, each["by"]))
    return rows


def publishing(models: Json, version: str) -> str:
    """What will happen when a version is published."""
    champion, challenger = models["champion"], models["challenger"]
    told = [f"{version} will answer all sessions, in every worker, within seconds."]
    if challenger and challenger != version:
        told = [
            f"{version} will answer all sessions but the {share_said(models['challenger_share'])} that the "
            f"challenger {challenger} answers, in every worker, within seconds."
        ]
    if version in (challenger, models["shadow"]):
        told.append("Its trial ends.")
    if champion:
        told.append(f"{champion} answers no more; rolling back returns to it.")
    return " ".join(told)


def rolling_back(models: Json) -> str:
    """What will happen when the champion is rolled back."""
    ends = " Its trial ends." if models["previous"] in (models["challenger"], models["shadow"]) else ""
    return (
        f"{models['previous']} will answer again, in every worker, within seconds, where "
        f"{models['champion']} does now.{ends} Rolling back once more swaps them again."
    )


def trying_out(models: Json, role: Role, version: str, share: float) -> str:
    """What will happen when a version is made challenger or shadow."""
    if role == "challenger":
        told = [
            f"{version} will answer {share_said(share)} of the sessions, {models['champion']} the others. "
            "A session always gets the same version. Shoppers see the difference."
        ]
    else:
        told = [
            f"{version} will be asked beside the version that answers, on {share_said(share)} of the "
            "sessions. No shopper sees its answers; it costs processor time and memory in every worker."
        ]
    if models[role] and models[role] != version:
        told.append(f"{models[role]}, the {role} now, is withdrawn.")
    return " ".join(told)


def withdrawing(models: Json, role: Role) -> str:
    """What will happen when a trial is ended."""
    if role == "challenger":
        return (
            f"{models['champion']} will answer the {share_said(models['challenger_share'])} of sessions that "
            f"{models['challenger']} answers now. What was measured of it stays for 90 days."
        )
    return f"{models['shadow']} will be asked no more. What was measured of it stays for 90 days."


def share_said(share: float) -> str:
    """`10 %`, `12.5 %`: as many digits as it takes, at most one."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def size_said(size: int) -> str:
    """`12.3 MB`, `4 kB`."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.0f} kB"


def moment(at: float) -> str:
    """Epoch seconds in words, UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def moment_of_iso(text: str | None) -> str:
    """An ISO-8601 time of UTC in words."""
    return "–" if text is None else f"{text[:10]} {text[11:16]} UTC"
