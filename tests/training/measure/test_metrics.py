"""Metrics worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.measure.metrics import MISSED, mrr_at_k, ndcg_at_k, ranking_metrics, recall_at_k

RANKS = np.array([1, 2, 20, 21, MISSED])


def test_by_hand() -> None:
    assert recall_at_k(RANKS, 20) == pytest.approx(3 / 5)
    assert mrr_at_k(RANKS, 20) == pytest.approx((1 + 1 / 2 + 1 / 20) / 5)
    assert ndcg_at_k(RANKS, 20) == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(21)) / 5)
    assert recall_at_k(RANKS, 1) == pytest.approx(1 / 5)


def test_names_and_percent() -> None:
    metrics = ranking_metrics(RANKS)
    assert set(metrics) == {f"{m}@{k}" for m in ("recall", "mrr", "ndcg") for k in (5, 10, 20)}
    assert metrics["recall@20"] == pytest.approx(60)
