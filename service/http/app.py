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
from starlette.routing import Route

from service.catalogue.attributes import Schema
from service.catalogue.filters import Filters
from service.catalogue.follower import CatalogueFollower
from service.catalogue.unseen import UnseenItems
from service.http import admin, openapi, probes, problems
from service.http.api import ShopApi
from service.http.guards.api_keys import KeyGuard, WrongKeys, hide_query_key, no_admin_key, no_server_key
from service.http.guards.cors import Cors
from service.http.guards.keyring import Keyring
from service.http.guards.rate_limit import InFlight, RateLimit
from service.http.items import ItemsApi
from service.http.operations import Guards, operations_of
from service.http.pages.shop import shop
from service.http.pages.tag import tag
from service.http.request_log import RequestLog
from service.http.text_paths import TextPaths
from service.live.artifacts import Artifacts
from service.live.click_log_metrics import follow_click_log
from service.live.follower import DeploymentFollower
from service.live.mirror import follow_mirror
from service.live.quality import QualityMonitor
from service.live.trending import Trending
from service.process.embedded_redis import data_directory
from service.process.origins import Origins
from service.process.settings import Caller, Settings, load_settings
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
        Artifacts.of(settings),
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
            *([follow_mirror(settings.artifacts_dir)] if settings.artifacts_url is not None else []),
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

    keys = Keyring(settings.every_key)
    asks: dict[Caller, bool] = {
        "public": bool(keys.of("public")),
        "server": bool(keys.of("public", "server")),
    }
    guards = _guards(settings, keys, asks, WrongKeys(store, settings.wrong_keys_per_minute), store)
    api = ShopApi(recommender, store, schema, settings)
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
        # It has no other place to see a request before its trace begins, which holds the query.
        telemetry={"metrics": False, "logs": False, "exclude": hide_query_key},
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
    app.router.routes += [*tag(), *_shop(settings, follower, schema, asks)]
    origins = Origins.of(settings)
    app.add_middleware(TextPaths)
    # Outside of it, so that these see what it refuses, and the log also who is asked first.
    app.add_middleware(Cors, origins=origins)
    app.add_middleware(
        RequestLog, share=settings.access_log_share, slow_seconds=settings.access_log_slow_ms / 1000
    )
    problems.add_problem_handlers(app, routes, origins)
    free = [caller for caller, asked in asks.items() if not asked]
    openapi.describe(app, operations, (schema.item_type, schema.changes_type), free)
    return app


def _shop(
    settings: Settings, follower: DeploymentFollower, schema: Schema, asks: dict[Caller, bool]
) -> list[Route]:
    """The page to try it in: where it is wanted, or where everybody may ask."""
    is_wanted = settings.shop_page if settings.shop_page is not None else not asks["public"]
    if not is_wanted:
        return []
    # A key that is bound to origins may not pass here: for its own page a browser names none.
    keys = [each for each in settings.every_key if each.scope == "public" and not each.origins]
    return shop(
        keys[0].key.get_secret_value() if keys else None,
        schema.private,
        lambda: [name for name, each in follower.current.placements.items() if each.problem is None],
    )


def _guards(
    settings: Settings,
    keys: Keyring,
    asks: dict[Caller, bool],
    wrong_keys: WrongKeys,
    store: SessionStore,
) -> dict[Caller, Guards]:
    """Who is let in, and how often; `asks`: whether these calls need a key."""
    limit = (
        RateLimit(store, settings.rate_limit_per_minute, settings.key_rate_limit_per_minute, keys.keys)
        or None
    )
    servers, admins = keys.of("server", "admin"), keys.of("admin")
    if settings.api_key is not None and not keys.of("server"):
        servers |= {"public"}  # the label of that key, which passed for both when there were no scopes

    def guard(caller: Caller, passing: frozenset[str]) -> KeyGuard | None:
        return KeyGuard(caller, keys, passing, wrong_keys, asks=asks[caller]) if keys else None

    return {
        "public": Guards(guard("public", keys.of("public", "server", "admin")), limit),
        "server": Guards(guard("server", servers) if servers or not asks["server"] else no_server_key, limit),
        "admin": Guards(KeyGuard("admin", keys, admins, wrong_keys) if admins else no_admin_key, None),
    }
