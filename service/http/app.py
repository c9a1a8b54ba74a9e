"""The web application of one worker: puts the parts together, and runs what runs beside the requests."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic import SecretStr
from starlette.routing import Route

from service.catalogue.asked import Asked
from service.catalogue.attributes import Schema
from service.catalogue.filters import Filters
from service.catalogue.follower import CatalogueFollower
from service.catalogue.unseen import UnseenItems
from service.http import admin, openapi, probes, problems
from service.http.api import ShopApi
from service.http.api_keys import Key, WrongKeys, no_admin_key
from service.http.items import ItemsApi
from service.http.operations import Caller, Guard, Guards, operations_of
from service.http.pages.shop import shop
from service.http.pages.tag import tag
from service.http.rate_limit import InFlight, RateLimit
from service.http.request_log import RequestLog
from service.http.text_paths import TextPaths
from service.live.click_log_metrics import follow_click_log
from service.live.follower import DeploymentFollower
from service.live.quality import QualityMonitor
from service.live.trending import Trending
from service.process.embedded_redis import data_directory
from service.process.settings import Settings, load_settings
from service.ranking.retriever import use_one_thread
from service.recommender import Recommender
from service.state.items import ItemStore
from service.state.link import StoreUnavailable
from service.state.store import SessionStore

# A thread that loads a bundle gives way to requests this soon; Python's own 5 ms are several to each of them.
SWITCH_SECONDS = 0.0005
DESCRIPTION = "Next-click recommendations for anonymous shoppers. Errors are RFC 9457 problem documents."

log = structlog.get_logger()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; without `settings` they come from the environment.

    Raises `SettingsError` and `CatalogueFileError`.
    """
    settings = settings or load_settings()
    if settings.redis_url is None:
        raise ValueError("redis_url is not set: `python -m service` starts a Redis and sets it")
    schema = Schema.of(settings)
    use_one_thread()
    sys.setswitchinterval(SWITCH_SECONDS)
    store = SessionStore(settings, settings.redis_url)
    items = ItemStore(settings, settings.redis_url, warns=False)
    filters = Filters(schema.kinds)
    catalogue = CatalogueFollower(items, filters, settings.catalogue_poll_seconds)
    follower = DeploymentFollower(
        settings.artifacts_dir,
        settings.deployment_poll_seconds,
        settings.bundle_load_timeout_seconds,
        filters=filters,
    )
    unseen = UnseenItems(filters, lambda: follower.current.bundles.values())
    trending = Trending(store)
    recommender = Recommender(
        store, follower, trending, QualityMonitor(store, settings.quality_share), settings
    )

    in_flight = InFlight(settings.max_requests_in_flight)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await catalogue.look()
        except StoreUnavailable as error:
            catalogue.failed(error)
        await follower.look()
        await follower.settle()
        with suppress(StoreUnavailable):  # the first contact takes longest: no request shall wait for it
            await trending.refresh()
        # What is there now stays: a full collection that looks at all of it would stop every request.
        gc.collect()
        gc.freeze()
        followers = (
            follower.follow(),
            catalogue.follow(),
            unseen.follow(),
            trending.follow(settings.trending_refresh_seconds),
            follow_click_log(store, settings.trending_refresh_seconds, data_directory(settings)),
            in_flight.tell(),
        )
        tasks = [asyncio.create_task(follow) for follow in followers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await store.close()
            await items.close()

    guards = _guards(settings, store)
    api = ShopApi(recommender, store, Asked(schema.kinds), settings.future_tolerance_seconds)
    operations = operations_of(api, guards, in_flight, settings.max_body_bytes)
    operations += operations_of(
        ItemsApi(items, schema),
        guards,
        in_flight,
        settings.max_body_bytes,
        settings.catalogue_max_body_bytes,
    )
    app = FastAPIOffline(  # /docs brings what it shows: it needs no network but this service
        title="Nextclick",
        description=DESCRIPTION,
        redoc_url=None,  # it tells the same again, and fetches its logo from a CDN
        swagger_ui_parameters={"validatorUrl": None},  # nor does it send the document anywhere
        lifespan=lifespan,
        redirect_slashes=False,
        # Traces are OpenTelemetry's where its SDK is set up; metrics are Prometheus's, logs are structlog's.
        telemetry={"metrics": False, "logs": False},
        routes=[each.route for each in operations],
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    app.state.store = store
    app.state.items = items
    app.state.follower = follower
    app.state.trending = trending
    app.state.catalogue = catalogue
    app.state.recommender = recommender
    app.state.guards = guards
    routes = [each.route for each in operations]
    for router in (admin.public, admin.router, probes.router):
        routes += [route for route in router.routes if isinstance(route, Route)]
        app.include_router(router, max_body_size=settings.max_body_bytes)
    app.router.routes += [*tag(), *_shop(settings, follower)]
    app.add_middleware(TextPaths)
    # Outside of it, so that it sees what that refuses.
    app.add_middleware(
        RequestLog, share=settings.access_log_share, slow_seconds=settings.access_log_slow_ms / 1000
    )
    problems.add_problem_handlers(app, routes)
    openapi.describe(app, operations, (schema.item_type, schema.changes_type), _open_to(settings))
    return app


def _shop(settings: Settings, follower: DeploymentFollower) -> list[Route]:
    """The page to try it in: where it is asked for, or where everybody may ask."""
    is_shown = settings.shop_page if settings.shop_page is not None else settings.api_key is None
    if not is_shown:
        return []
    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    return shop(
        key, lambda: [name for name, each in follower.current.placements.items() if each.problem is None]
    )


def _open_to(settings: Settings) -> list[Caller]:
    """Who needs no key."""
    keys: dict[Caller, SecretStr | None] = {
        "shopper": settings.api_key,
        "server": settings.server_api_key or settings.api_key,
    }
    return [caller for caller, key in keys.items() if key is None]


def _guards(settings: Settings, store: SessionStore) -> dict[Caller, Guards]:
    """Who is let in, and how often."""
    wrong_keys = WrongKeys(store, settings.wrong_keys_per_minute)
    shop_key, server_key, admin_key = settings.api_key, settings.server_api_key, settings.admin_api_key
    per_address, per_key = settings.rate_limit_per_minute, settings.key_rate_limit_per_minute

    def key_of(caller: Caller, key: SecretStr | None, *, is_public: bool = False) -> Guard | None:
        return Key(caller, key, wrong_keys, is_public=is_public) if key is not None else None

    shopper = Guards(
        key_of("shopper", shop_key, is_public=True),
        RateLimit(store, per_address, "shopper" if shop_key is not None else None, per_key) or None,
    )
    # A shop's own server speaks for all shoppers from one address: it is counted by its key alone.
    server = Guards(key_of("server", server_key), RateLimit(store, 0, "server", per_key) or None)
    return {
        "shopper": shopper,
        "server": shopper if server_key is None else server,
        "admin": Guards(key_of("admin", admin_key) or no_admin_key, None),
    }
