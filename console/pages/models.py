"""Which versions answer, how they do, what could be made live, and why runs published or did not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from nicegui import ui

from console.pages.parts import Freshness, Part, button, muted, read, section
from console.pages.tables import table
from console.service import Json
from console.shell import Console, notice
from console.shown.runs import RunRow, find_runs
from console.shown.trials import (
    BundleRow,
    ChangeRow,
    Role,
    Standing,
    bundle_rows,
    change_rows,
    publishing,
    rolling_back,
    share_said,
    standings,
    trying_out,
    withdrawing,
)

STANDING = ("Version", "Role", "Answers", "Judged clicks", "Hit rate@20", "MRR@20", "Feedback clicks")
BUNDLE = ("Version", "Role", "Model", "Made", "Items", "Size", "Recall@20", "MRR@20", "")
LIVE = (
    "Of GET /models: in a sample of sessions, how often the next click was among the 20 items shown (hit "
    "rate), and the mean of 1 / its rank (MRR); in brackets where the true figure lies, 19 times in 20."
)
OFFLINE = "Of GET /admin/bundles. Recall@20 and MRR@20 are of the test before the version was published."
SHOWN_RUNS = 20


async def page(console: Console) -> None:
    """The page."""
    view, fresh = _View(console), Freshness()
    with section("Live", LIVE):
        figures = Part[list[Standing]](view.figures)
        actions = Part[tuple[Any, ...]](view.actions)
    with section("Bundles", OFFLINE):
        bundles = Part[list[BundleRow]](view.bundles)
    with section("Start a trial"):
        form = Part[list[str]](view.form)
    with section("Changes", "Of GET /admin/history: who gave which version which role."):
        changes = Part[tuple[list[ChangeRow], int]](_changes)
    with section("Runs", "Of artifacts/runs/*/run.json: what each retraining did, and what the gate said."):
        runs = Part[list[RunRow] | str](_runs)

    def show(models: Json) -> None:
        view.models = models
        figures.show(standings(models))
        actions.show((models["previous"], models["champion"], models["challenger"], models["shadow"]))

    async def refresh(models: Json | None = None) -> None:
        show(await console.service.get("/models") if models is None else models)
        rows = bundle_rows((await console.service.get("/admin/bundles"))["bundles"])
        bundles.show(rows)
        form.show([row.version for row in rows if row.may_be_tried])
        history = await console.service.get("/admin/history")
        changes.show((change_rows(history), history["unreadable"]))
        runs.show(await read(console, find_runs))

    view.refresh = refresh
    await fresh.follow(refresh)


class _View:
    """What of the page can change something."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.models: Json = {}
        self.refresh: Callable[[Json], Awaitable[None]]

    def figures(self, rows: list[Standing]) -> None:
        if not rows:
            muted("No version is live: publish one.")
            return
        table(
            "Versions that are live",
            STANDING,
            [(r.version, r.role, r.share, r.judged, r.hit_rate, r.mrr, r.feedback) for r in rows],
        ).classes("card")
        for row in rows:
            if row.problem is not None:
                notice(f"{row.version}, the {row.role}, does not answer: {row.problem}", "warn")

    def actions(self, _: object) -> None:
        models = self.models
        with ui.row().classes("tight"):
            if models["previous"]:
                button(f"Roll back to {models['previous']}", self.roll_back)
            roles: tuple[Role, ...] = ("challenger", "shadow")
            for role in roles:
                if models[role]:
                    button(f"Withdraw {models[role]}", partial(self.withdraw, role))

    def bundles(self, rows: list[BundleRow]) -> None:
        if not rows:
            muted("There is no bundle yet: nextclick train or nextclick run makes one.")
            return
        with ui.element("div").classes("scrolls card") as box:
            box.props["aria-label"], box.props["role"], box.props["tabindex"] = "Bundles", "region", "0"
            with ui.element("table").classes("numbers"):
                with ui.element("thead"), ui.element("tr"):
                    for head in BUNDLE:
                        with ui.element("th" if head else "td").props('scope="col"' if head else ""):
                            ui.label(head)
                with ui.element("tbody"):
                    for row in rows:
                        self._bundle(row)
        for row in rows:
            if row.problem is not None:
                notice(f"{row.version} cannot be served: {row.problem}", "warn")

    def _bundle(self, row: BundleRow) -> None:
        roles = ", ".join(row.roles) or "–"
        cells = (roles, row.model, row.created, row.items, row.size, row.recall, row.mrr)
        with ui.element("tr"):
            with ui.element("th").props('scope="row"'):
                ui.label(row.version)
            for cell in cells:
                with ui.element("td"):
                    ui.label(cell)
            with ui.element("td"):
                if row.may_go_live:
                    button("Publish", partial(self.publish, row.version), spoken=f"Publish {row.version}")
                elif row.problem is not None:
                    ui.label("cannot be served").classes("warn")

    def form(self, versions: list[str]) -> None:
        if not versions:
            muted("No bundle is free for a trial: each that can be served has a role.")
            return
        with ui.row().classes("items-end"):
            version = ui.select(versions, value=versions[0], label="Version").props("outlined dense")
            version.classes("wide-field")
            role = ui.select(
                {"challenger": "Challenger: answers a share", "shadow": "Shadow: asked, never seen"},
                value="challenger",
                label="As",
            ).props("outlined dense")
            share = ui.number("Share of sessions in %", value=10)
            share.props("outlined dense").classes("share-field")

            async def start() -> None:
                if share.value is None or not 0 < share.value <= 100:
                    ui.notify("The share is a number above 0, up to 100 %.", type="negative", position="top")
                    return
                await self.try_out(role.value, version.value, share.value / 100)

            button("Start", start, spoken="Start the trial")

    async def publish(self, version: str) -> None:
        await self._change(
            f"Publish {version}?",
            publishing(self.models, version),
            "Publish",
            lambda: self.console.service.post("/admin/activate", {"version": version}),
            f"{version} is live.",
        )

    async def roll_back(self) -> None:
        previous = self.models["previous"]
        await self._change(
            f"Roll back to {previous}?",
            rolling_back(self.models),
            "Roll back",
            lambda: self.console.service.post("/admin/rollback"),
            f"{previous} is live again.",
        )

    async def try_out(self, role: Role, version: str, share: float) -> None:
        await self._change(
            f"Make {version} the {role}?",
            trying_out(self.models, role, version, share),
            f"Start {role}",
            lambda: self.console.service.put(f"/admin/{role}", {"version": version, "share": share}),
            f"{version} is the {role} of {share_said(share)} of the sessions.",
        )

    async def withdraw(self, role: Role) -> None:
        version = self.models[role]
        await self._change(
            f"Withdraw {version}?",
            withdrawing(self.models, role),
            "Withdraw",
            lambda: self.console.service.delete(f"/admin/{role}"),
            f"{version} is the {role} no longer.",
        )

    async def _change(
        self, title: str, will_happen: str, action: str, call: Callable[[], Awaitable[Json]], done: str
    ) -> None:
        if not await self.console.confirm(title, will_happen, action):
            return
        models = await call()
        self.console.notify(done)
        await self.refresh(models)


def _changes(found: tuple[list[ChangeRow], int]) -> None:
    rows, unreadable = found
    if unreadable:
        notice(f"{unreadable} lines of deployments.jsonl cannot be read.", "warn")
    if not rows:
        muted("Nothing was changed yet.")
        return
    changes = [(row.at, row.what, row.by) for row in rows[:20]]
    table("Changes of what is live", ("When", "What", "By"), changes).classes("card")


def _runs(found: list[RunRow] | str) -> None:
    if isinstance(found, str):
        muted(found)
        return
    if not found:
        muted("There was no run yet: nextclick run makes one.")
    for row in found[:SHOWN_RUNS]:
        failed = row.status not in ("published", "running")
        with ui.element("details").classes("card run"):
            with ui.element("summary"):
                ui.label(row.id).classes("run-id")
                ui.label(row.status).classes("bad" if failed else "good" if row.status == "published" else "")
                if row.started != "–":
                    ui.label(row.started).classes("caption")
            if row.reason:
                notice(row.reason, "bad" if failed else "warn")
            if row.steps:
                ui.label(f"Makes {row.version}.").classes("caption")
                table(
                    f"Steps of {row.id}",
                    ("Step", "Status", "Took"),
                    [(s.name, s.status, s.took) for s in row.steps],
                )
            if row.checks:
                table(
                    f"What the gate checked in {row.id}",
                    ("Check", "Passed", "Measured", "Limit", "In words"),
                    [
                        (c.name, "yes" if c.passed else "NO", c.measured, c.limit, c.detail)
                        for c in row.checks
                    ],
                )
    if len(found) > SHOWN_RUNS:
        muted(f"{len(found) - SHOWN_RUNS} older runs are in artifacts/runs.")
