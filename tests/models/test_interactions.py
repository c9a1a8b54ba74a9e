"""The graph models against dense computations with Â = D^-½ A D^-½ itself, gradients too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, logsigmoid, normalize

from models.base import Batch
from models.bprmf import BPRMF
from models.gcn import GCN
from models.interactions import GraphEncoder, InteractionEncoder, SessionItemGraph
from models.lightgcn import LightGCN
from models.losses import Negatives
from models.ngcf import NGCF
from models.sessions import Sessions
from training.bundling.export import write_encoder

N_ITEMS = 9  # the last two are in no session
CLICKS = [[3, 1, 3, 7], [2], [7, 7], [1, 2, 3, 4, 5, 6], [4, 3]]
SESSIONS = Sessions(
    np.array([i for s in CLICKS for i in s], np.int32), np.cumsum([0, *map(len, CLICKS)]), N_ITEMS
)
ASKED = torch.tensor([3, 0, 3, 1])


def dense_adjacency() -> Tensor:
    """Â (S + n + 1, S + n + 1): sessions first, then items, PAD among them."""
    size = len(CLICKS) + N_ITEMS + 1
    adjacency = torch.zeros(size, size)
    for session, clicks in enumerate(CLICKS):
        for item in clicks:
            adjacency[session, len(CLICKS) + item] = adjacency[len(CLICKS) + item, session] = 1
    degree = adjacency.sum(1)
    scale = torch.where(degree > 0, degree.rsqrt(), 0.0)
    return scale[:, None] * adjacency * scale


def lightgcn(model: Any, a: Tensor, h: Tensor) -> Tensor:
    return (h + a @ h + a @ a @ h + a @ a @ a @ h) / 4


def gcn(model: Any, a: Tensor, h: Tensor) -> Tensor:
    layers = [h]
    for linear in model.weights:
        layers.append(leaky_relu(a @ layers[-1] @ linear.weight.T + linear.bias, 0.2))
    return torch.cat(layers, 1)


def ngcf(model: Any, a: Tensor, h: Tensor) -> Tensor:
    layers = [h]
    eye = torch.eye(len(a))
    for sums, products in zip(model.sums, model.products, strict=True):
        of_sum = leaky_relu((a + eye) @ h @ sums.weight.T + sums.bias, 0.2)
        h = of_sum + leaky_relu((h * (a @ h)) @ products.weight.T + products.bias, 0.2)
        layers.append(normalize(h, dim=1))
    return torch.cat(layers, 1)


@pytest.mark.parametrize(
    ("model_class", "dense"),
    [(LightGCN, lightgcn), (GCN, gcn), (NGCF, ngcf)],
    ids=["lightgcn", "gcn", "ngcf"],
)
def test_propagation_is_the_dense_one(
    model_class: type[GraphEncoder], dense: Callable[[Any, Tensor, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    hyper: dict[str, Any] = {"dropout": 0.0} if model_class is NGCF else {}
    model = model_class.build(SESSIONS, dim=5, **hyper)
    sessions, items = model.embed(ASKED, model.sessions(ASKED))
    start = torch.cat([model.sessions.weight, model.items.weight])
    everything = dense(model, dense_adjacency(), start)
    expected = everything[: len(CLICKS)][ASKED], everything[len(CLICKS) :]
    torch.testing.assert_close((sessions, items), expected)
    parameters = list(model.parameters())
    weights = torch.randn_like(sessions), torch.randn_like(items)
    grads, expected_grads = (
        torch.autograd.grad((weights[0] * s).sum() + (weights[1] * i).sum(), parameters)
        for s, i in ((sessions, items), expected)
    )
    torch.testing.assert_close(grads, expected_grads)


@pytest.mark.parametrize("model_class", [BPRMF, LightGCN, NGCF])
def test_loss_by_hand(model_class: type[InteractionEncoder]) -> None:
    """Pair by pair: −log σ(target − negative), the mean over the sample, and half the decay of their rows."""
    torch.manual_seed(0)
    hyper: dict[str, Any] = {"dropout": 0.0} if model_class is NGCF else {}
    model = model_class.build(SESSIONS, dim=5, decay=0.3, head="native", **hyper)
    sample = torch.tensor([5, 8])
    targets = torch.tensor([4, 3, 5, 2])  # the third is in the sample: no negative of its own
    loss = model.loss(Batch(ASKED, targets, negatives=Negatives(sample, torch.zeros(2), 5)))
    sessions, items = model.embed(ASKED, model.sessions(ASKED))
    bias = model.item_bias()
    bias = torch.zeros(N_ITEMS + 1) if bias is None else bias
    pairs = [
        [-logsigmoid(s @ (items[t] - items[n]) + bias[t] - bias[n]) for n in sample if n != t]
        for s, t in zip(sessions, targets, strict=True)
    ]
    expected = torch.stack([torch.stack(row).mean() for row in pairs]).mean()
    for rows in (model.sessions(ASKED), model.items(targets), model.items(sample)):
        expected = expected + 0.3 / 2 * rows.square().sum() / len(rows)
    torch.testing.assert_close(loss, expected)


def test_the_graph_is_the_sessions_each_item_once() -> None:
    graph = SessionItemGraph(SESSIONS)
    dense = dense_adjacency()[: len(CLICKS), len(CLICKS) :]
    torch.testing.assert_close(graph.to_sessions(torch.eye(N_ITEMS + 1)), dense)
    torch.testing.assert_close(graph.to_items(torch.eye(len(CLICKS))), dense.T)
    torch.testing.assert_close(graph.rows_of(ASKED).times(torch.eye(N_ITEMS + 1)), dense[ASKED])
    assert len(graph.rows_of(ASKED[:0]).times(torch.eye(N_ITEMS + 1))) == 0


def test_the_exported_encoder_holds_the_table_and_nothing_else(tmp_path: Path) -> None:
    """No graph, no training session, no dense layer: one float for each entry of the table."""
    model = NGCF.build(SESSIONS, dim=5).eval()
    write_encoder(model, tmp_path / "encoder.onnx")
    exported = onnx.load(tmp_path / "encoder.onnx")
    floats = [
        np.prod(tensor.dims)
        for tensor in exported.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    ]
    assert max(floats) == model.item_vectors().numel()
    assert sum(floats) < model.item_vectors().numel() + 10  # a few scalars


def test_served_is_the_table_of_the_last_eval() -> None:
    """Worked out once on entering eval mode, by the weights of that moment, without dropout or the graph."""
    torch.manual_seed(0)
    model = NGCF.build(SESSIONS, dim=5)
    with torch.inference_mode():
        model.eval()
    table = model.item_vectors()
    assert table is model.item_vectors()
    assert not table.requires_grad
    mean = normalize(table[[3, 1, 3]].mean(0), dim=0)
    torch.testing.assert_close(model(torch.tensor([[3, 1, 3, 0]]))[0], mean)
    assert "table" not in model.state_dict()
    model.train()
    with torch.no_grad():
        model.items.weight.add_(1)
    assert not torch.equal(model.eval().item_vectors(), table)
