"""The fused cross-entropy against torch's own, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy as reference
from torch.nn.functional import normalize

from models.losses import cross_entropy


def inputs(n: int = 300) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    vectors = (3 * torch.randn(17, 8)).requires_grad_()
    items = torch.randn(n, 8).requires_grad_()
    bias = torch.randn(n).requires_grad_()
    targets = torch.randint(n, (17,))
    targets[1] = targets[0]  # a target twice in a batch: its gradients add up
    return vectors, items, bias, targets


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("unit_items", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_equals_torch(with_bias: bool, unit_items: bool, dtype: torch.dtype, tolerance: float) -> None:
    vectors, items, bias, targets = inputs()
    parameters = [vectors, items, bias] if with_bias else [vectors, items]
    scored = normalize(items, dim=1) if unit_items else items
    expected = reference(vectors @ scored.T + (bias if with_bias else 0), targets)
    expected_grads = torch.autograd.grad(expected, parameters)
    loss = cross_entropy(
        vectors, items, targets, bias=bias if with_bias else None, normalise=unit_items, dtype=dtype
    )
    grads = torch.autograd.grad(3 * loss, parameters)
    torch.testing.assert_close(loss, expected, atol=tolerance, rtol=tolerance)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        scale = float(expected_grad.abs().max())
        torch.testing.assert_close(grad / 3 / scale, expected_grad / scale, atol=tolerance, rtol=0)


def test_large_scores_do_not_overflow() -> None:
    vectors, items, _, targets = inputs()
    loss = cross_entropy(vectors * 1e3, items, targets)
    expected = reference(vectors * 1e3 @ items.T, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)


def test_smaller_batch_after_a_larger_one() -> None:
    """The scratch buffer is shared between steps: a smaller step must not see what a larger one left."""
    vectors, items, _, targets = inputs()
    cross_entropy(vectors, items, targets)
    few, few_items, _, few_targets = inputs(n=50)
    torch.testing.assert_close(
        cross_entropy(few[:3], few_items, few_targets[:3]), reference(few[:3] @ few_items.T, few_targets[:3])
    )
