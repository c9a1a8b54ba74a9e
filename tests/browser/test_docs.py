"""/docs, with no network but the service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.storefront import storefront
from tests.service.processes import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with storefront(tmp_path_factory.mktemp("docs")) as service:
        yield service


def test_docs_list_every_call_and_try_one(service: Service, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{service.url}/docs")
    calls = service.ask("GET", "/openapi.json").json()["paths"]
    expect(page.locator(".opblock")).to_have_count(sum(len(methods) for methods in calls.values()))

    call = page.locator("#operations-recommendations-recommend_items")
    call.locator(".opblock-summary-control").click()
    call.get_by_role("button", name="Try it out").click()
    call.locator("textarea").fill('{"items": ["i1"], "k": 3}')
    call.get_by_role("button", name="Execute").click()
    expect(call.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    expect(call.locator(".live-responses-table")).to_contain_text('"recommendation_id"')

    allowed = (f"{service.url}/", "data:", "blob:")
    assert [url for url in asked if not url.startswith(allowed)] == []


def test_there_is_one_page_of_the_calls(service: Service) -> None:
    assert service.ask("GET", "/redoc").status == 404
    files = service.ask("POST", "/static-offline-docs/swagger-ui.css")
    assert (files.status, files.json()["type"]) == (405, "urn:nextclick:problem:method-not-allowed")
