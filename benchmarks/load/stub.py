"""The yardstick: what a good engineer writes first, before anything has been measured.

FastAPI with models in and out, redis.asyncio, onnxruntime and a flat FAISS index; each request is a call to
Redis, one run of the encoder and one search. It answers the two requests of `benchmarks.load.traffic` from
the same bundle as the service, with the same items, and has none of the rest.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import faiss
import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel
from redis.asyncio import Redis

from service.ranking.bundle import ENCODER, Bundle

MAX_CLICKS = 50
TTL_SECONDS = 1800


class ClickIn(BaseModel):
    """One click."""

    item_id: str


class ClickOut(BaseModel):
    """The click is stored."""

    session_id: str
    length: int


class Item(BaseModel):
    """An item and its cosine with the session; 0 when that is empty."""

    item_id: str
    score: float


class Recommendations(BaseModel):
    """The items to show, best first."""

    session_id: str
    version: str
    items: list[Item]


def create_app() -> FastAPI:
    """The application of one worker; STUB_BUNDLE and STUB_REDIS_URL say on what."""
    bundle = Bundle.load(Path(os.environ["STUB_BUNDLE"]))
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    encoder = ort.InferenceSession(bundle.path / ENCODER, options, providers=["CPUExecutionProvider"])
    faiss.omp_set_num_threads(1)
    vectors = bundle.retriever.vectors()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    index_of, item_ids = dict(bundle.index_of), tuple(bundle.items)
    max_length, version = bundle.manifest.max_length, bundle.manifest.version
    redis = Redis.from_url(os.environ["STUB_REDIS_URL"], decode_responses=True)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with redis:
            await redis.ping()
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/health/ready")
    async def ready() -> None:
        """The bundle is loaded, and Redis answers."""

    @app.post("/sessions/{session_id}/click")
    async def click(session_id: str, body: ClickIn) -> ClickOut:
        async with redis.pipeline() as pipeline:  # one round trip
            pipeline.rpush(session_id, body.item_id)
            pipeline.ltrim(session_id, -MAX_CLICKS, -1)
            pipeline.expire(session_id, TTL_SECONDS)
            length, *_ = await pipeline.execute()
        return ClickOut(session_id=session_id, length=min(length, MAX_CLICKS))

    @app.get("/recommend")
    async def recommend(session_id: str, k: int = 20) -> Recommendations:
        clicked = await redis.lrange(session_id, 0, -1)
        known = [index_of[item_id] for item_id in clicked if item_id in index_of]
        if known:
            session = np.array([known[-max_length:]], dtype=np.int64)
            scores, rows = index.search(encoder.run(None, {"sessions": session})[0], k)
            found = [
                (row + 1, score) for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True)
            ]
        else:  # the most popular ones
            found = [(item, 0.0) for item in range(1, k + 1)]
        items = [Item(item_id=item_ids[item], score=score) for item, score in found]
        return Recommendations(session_id=session_id, version=version, items=items)

    return app
