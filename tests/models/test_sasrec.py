"""SASRec and TRON against their equations; the Transformer itself is test_layers.py's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from models.base import Batch, Head
from models.losses import Negatives
from models.sasrec import SASRec
from models.tron import TRON

SESSION = torch.tensor([[3, 1, 3, 7]])


@pytest.mark.parametrize("head", ["native", "niser"])
@pytest.mark.parametrize("model_class", [SASRec, TRON])
def test_equals_its_equations(model_class: type[SASRec | TRON], head: Head) -> None:
    """Items times √D, and positions, through causal blocks and a last LayerNorm; unit vectors for cosines."""
    torch.manual_seed(0)
    model = model_class(9, dim=4, layers=2, head=head).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    answer = model.forward_all(SESSION)[0]
    v = model.items.weight[SESSION[0]]
    if head == "niser":
        v = v / v.norm(dim=1, keepdim=True)
    x = math.sqrt(4) * v + model.encoder.positions.weight[:4]  # (1)
    blocks: Any = model.encoder.blocks
    for block in blocks:  # (2), (3)
        normed = block.norm_attention(x)
        q, k, values = block.qkv(normed).chunk(3, 1)
        weights = (q @ k.T / math.sqrt(4)).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf).softmax(1)
        x = x + block.output(weights @ values)
        x = x + block.feed_forward[2](block.feed_forward[0](block.norm_feed_forward(x)).relu())
    expected = model.encoder.norm(x)  # (4)
    torch.testing.assert_close(answer, normalize(expected, dim=1) if head == "niser" else expected)


def test_trons_loss_is_over_the_hardest_negatives() -> None:
    """(3): of 16,384 that a step shares the 100 with the highest scores, here of 200, not corrected."""
    torch.manual_seed(0)
    model = TRON(300, dim=4, head="native", dropout=0.0)
    model.recipe = type(model.recipe)(**{**vars(model.recipe), "logq": False})
    assert (model.recipe.loss, model.recipe.hardest) == ("sampled-ce", 100)
    negatives = Negatives(torch.arange(50, 250), torch.zeros(200), 250)
    loss = model.loss(Batch(SESSION, torch.tensor([[1, 3, 7, 9]]), negatives=negatives))
    scores = model.forward_all(SESSION)[0] @ model.items.weight.T
    target = scores.gather(1, torch.tensor([[1], [3], [7], [9]]))
    hardest = scores[:, 50:250].sort(1, descending=True).values[:, :100]
    expected = (torch.cat([target, hardest], 1).logsumexp(1) - target[:, 0]).mean()
    torch.testing.assert_close(loss, expected)
