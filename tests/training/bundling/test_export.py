"""What export must refuse, and the exact reduction of a dot product with bias to a cosine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.base import Batching, Head, Recipe, SessionEncoder
from service.live.deployment import bundle_path
from service.ranking.bundle import INDEX, Bundle, read_manifest, write_manifest
from service.ranking.checksums import file_sha256
from service.ranking.retriever import Retriever
from training.bundling.export import (
    ExportError,
    ServedEncoder,
    check_parity,
    export_bundle,
    served_item_vectors,
    write_encoder,
)
from training.bundling.indexes import WantedIndex
from training.bundling.provenance import Provenance, new_version

N_ITEMS = 50
SAMPLE = [[1, 2, 3], [4], [5, 6, 7, 8]]
ITEMS = [f"sku-{i}" for i in range(N_ITEMS)]
PROVENANCE = Provenance("mean", 1, {}, "commit", "data")


class Mean(SessionEncoder):
    """The mean of a session's item vectors: the least that can be exported."""

    recipe: Recipe = Recipe()
    batching: Batching = "prefixes"

    def __init__(self, n_items: int, *, head: Head = "native", unlike_when_exported: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = head
        self.items = nn.Embedding(n_items + 1, 6, padding_idx=0)
        self.bias = nn.Parameter(torch.randn(n_items + 1)) if head == "native" else None
        self.unlike_when_exported = unlike_when_exported

    def forward(self, sessions: Tensor) -> Tensor:
        vectors = self.items(sessions).sum(1) / (sessions > 0).sum(1, keepdim=True)
        if self.unlike_when_exported and torch.compiler.is_exporting():
            vectors = vectors + 0.01
        return vectors if self.head == "native" else nn.functional.normalize(vectors, dim=1)

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def item_bias(self) -> Tensor | None:
        return self.bias


def test_dot_product_with_bias_becomes_a_cosine_in_the_same_order() -> None:
    model = Mean(N_ITEMS).eval()
    vectors = served_item_vectors(model)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert model.bias is not None
    sessions = torch.randint(1, N_ITEMS + 1, (40, 5))
    own = model(sessions) @ model.item_vectors()[1:].T + model.bias[1:]
    served = ServedEncoder(model)(sessions).detach().numpy()
    np.testing.assert_allclose(np.linalg.norm(served, axis=1), 1, atol=1e-6)
    cosines = served @ vectors.T
    assert (np.argsort(-cosines, axis=1) == np.argsort(-own.detach().numpy(), axis=1)).all()


def test_manifest_tells_where_a_bundle_comes_from(tmp_path: Path) -> None:
    path = export_bundle(
        Mean(N_ITEMS), ITEMS, SAMPLE, PROVENANCE, tmp_path, "v1", lambda bundle: {"mrr@20": 7.0}
    )
    manifest = Bundle.load(path).manifest
    assert path == bundle_path(tmp_path, "v1")
    assert (manifest.model, manifest.head, manifest.source_commit) == ("mean", "native", "commit")
    assert (manifest.n_items, manifest.dim, manifest.metrics) == (N_ITEMS, 8, {"mrr@20": 7.0})
    assert manifest.index is not None
    assert manifest.index.recall_at_20 == 1.0


def test_hnsw_carries_its_measured_recall(tmp_path: Path) -> None:
    path = export_bundle(
        Mean(N_ITEMS, head="niser"),
        ITEMS,
        SAMPLE,
        PROVENANCE,
        tmp_path,
        "v1",
        lambda b: {},
        wanted=WantedIndex("hnsw"),
    )
    index = Bundle.load(path).manifest.index
    assert index is not None
    assert index.kind == "hnsw"
    assert 0.9 < index.recall_at_20 <= 1


def test_it_is_traced_without_gradients(tmp_path: Path) -> None:
    model, gradients = Mean(N_ITEMS), []
    model.register_forward_hook(lambda *_: gradients.append(torch.is_grad_enabled()))
    write_encoder(model, tmp_path / "encoder.onnx")
    assert gradients
    assert not any(gradients)


def test_an_encoder_that_differs_from_its_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ONNX and torch vectors differ by 0\.\d+ at \(B, L\) = \(1, 1\)"):
        export_bundle(
            Mean(N_ITEMS, unlike_when_exported=True), ITEMS, SAMPLE, PROVENANCE, tmp_path, "v1", lambda b: {}
        )
    assert not any((tmp_path / "bundles").iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda model: model.items.weight[7].fill_(torch.nan), r"the vector of item \d+ is not finite"),
        (lambda model: model.items.weight.fill_(torch.inf), r"the vector of item 1 is not finite"),
        (lambda model: model.items.weight.fill_(0.3), "all items have the same score in every session"),
    ],
    ids=["one NaN", "all infinite", "constant"],
)
@pytest.mark.parametrize("head", ["native", "niser"])
def test_a_model_that_has_diverged_is_refused(
    tmp_path: Path, spoil: Callable[[Mean], object], reason: str, head: Head
) -> None:
    model = Mean(N_ITEMS, head=head)
    with torch.no_grad():
        spoil(model)
        if model.bias is not None:
            model.bias.fill_(0)
    with pytest.raises(ExportError, match=reason):
        export_bundle(model, ITEMS, SAMPLE, PROVENANCE, tmp_path, "v1", lambda b: {})
    assert not any((tmp_path / "bundles").iterdir())


def test_a_model_with_one_answer_for_all_sessions_is_refused(tmp_path: Path) -> None:
    """Its sessions all have one vector; items have scores of their own by the bias."""
    model = Mean(N_ITEMS)
    with torch.no_grad():
        model.items.weight.fill_(0)
    with pytest.raises(ExportError, match="all sessions have the same vector"):
        export_bundle(model, ITEMS, SAMPLE, PROVENANCE, tmp_path, "v1", lambda b: {})


def test_without_an_index_that_is_good_enough_there_is_no_bundle(tmp_path: Path) -> None:
    small = WantedIndex("flat", max_mb=0.001)
    with pytest.raises(ExportError, match=r"no index of 50 items of 8 dimensions fits into 0\.001 MB"):
        export_bundle(Mean(N_ITEMS), ITEMS, SAMPLE, PROVENANCE, tmp_path, "v1", lambda b: {}, small)
    assert not any((tmp_path / "bundles").iterdir())


def test_a_bundle_that_ranks_otherwise_than_its_model_is_refused(tmp_path: Path) -> None:
    model = Mean(N_ITEMS)
    path = export_bundle(model, ITEMS, SAMPLE, PROVENANCE, tmp_path, "v1", lambda b: {})
    vectors = Bundle.load(path).retriever.vectors()
    Retriever.build(vectors[::-1].copy(), "flat").save(path / INDEX)
    manifest = read_manifest(path)
    files = {**manifest.files, INDEX: file_sha256(path / INDEX)}
    write_manifest(path, manifest.model_copy(update={"files": files}))
    with pytest.raises(ExportError, match="the exact top 20 differs from the model's by more than a tie"):
        check_parity(model, Bundle.load(path), SAMPLE)


def test_a_failed_measurement_leaves_nothing(tmp_path: Path) -> None:
    def fail(bundle: Bundle) -> dict[str, float]:
        raise RuntimeError("no test data")

    with pytest.raises(RuntimeError, match="no test data"):
        export_bundle(Mean(N_ITEMS), ITEMS, SAMPLE, PROVENANCE, tmp_path, "v1", fail)
    assert not any((tmp_path / "bundles").iterdir())


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    export_bundle(Mean(N_ITEMS), ITEMS, SAMPLE, PROVENANCE, tmp_path, "v1", lambda b: {})
    with pytest.raises(ExportError, match="exists already"):
        export_bundle(Mean(N_ITEMS), ITEMS, SAMPLE, PROVENANCE, tmp_path, "v1", lambda b: {})


def test_versions_of_one_second_differ(tmp_path: Path) -> None:
    """Two trainings may end together: the second is not refused for the name it was given."""
    versions = []
    for _ in range(3):
        versions.append(new_version("mean", tmp_path))
        bundle_path(tmp_path, versions[-1]).mkdir(parents=True)
    assert len(set(versions)) == 3
    assert versions == sorted(versions)
