"""Training losses that any encoder can use.

cross_entropy: −log softmax(s·Vᵀ + b)[target], over all items.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PARTIAL_SUMS = 64  # a row's sum of exponentials is rounded in this many parts, then added in float32
_SAFE_EXPONENT = 40.0  # exp(40) times a billion items is still far from the largest float


def cross_entropy(
    vectors: Tensor,
    item_vectors: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    normalise: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean full-softmax cross-entropy, without ever holding (N, n) float32 logits.

    `vectors` (N, D), `item_vectors` (n, D), `targets` (N,) in 0..n-1, `bias` (n,). With `normalise` the item
    vectors are divided by their L2 norms first (the NISER head). The three products and the exponentials run
    in `dtype`; sums, norms and gradients are float32.
    """
    loss: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        vectors, item_vectors, targets, bias, normalise, dtype
    )
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while the exponentials are at hand.

    Only unnormalised exponentials E = exp(logits − max) are stored, in one buffer that is kept between steps:
    fresh memory of this size would cost more than the arithmetic, since the kernel zeroes it page by page.
    The softmax is E / rowsum(E); the division is applied to the small (N, D) factors instead.
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        item_vectors: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        normalise: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        n_targets = vectors.shape[0]
        if normalise:
            inverse = item_vectors.norm(dim=1, keepdim=True).clamp_min(1e-12).reciprocal_()  # (n, 1)
            items = item_vectors * inverse
        else:
            items = item_vectors
        low_vectors, low_items = vectors.to(dtype), items.to(dtype)

        exponentials = _buffer(n_targets, items.shape[0], dtype)  # (N, n)
        torch.mm(low_vectors, low_items.T, out=exponentials)
        if bias is not None:
            exponentials += bias.to(dtype)
        if normalise and bias is None and bool(vectors.norm(dim=1).max() < _SAFE_EXPONENT):
            highest = vectors.new_zeros(n_targets, 1)  # |logit| <= ‖vector‖: exp cannot overflow
        else:
            highest = exponentials.amax(1, keepdim=True)  # (N, 1)
            exponentials.sub_(highest)
        exponentials.exp_()
        sums = _row_sums(exponentials)  # (N,)

        target_items = items[targets]  # (N, D)
        target_logits = (vectors * target_items).sum(1)
        if bias is not None:
            target_logits += bias[targets]
        losses = highest[:, 0].float() + sums.log() - target_logits

        scale = (sums * n_targets).reciprocal_()[:, None]  # mean over targets, and the softmax's denominator
        grad_vectors = (exponentials @ low_items).float() * scale - target_items / n_targets
        grad_items = (exponentials.T @ (vectors * scale).to(dtype)).float()  # (n, D)
        grad_items.index_add_(0, targets, vectors, alpha=-1 / n_targets)
        if normalise:  # back through v / ‖v‖
            grad_items -= items * (grad_items * items).sum(1, keepdim=True)
            grad_items *= inverse
        grad_bias = None
        if bias is not None:
            grad_bias = (exponentials.T @ scale.to(dtype)).float()[:, 0]
            grad_bias.index_add_(0, targets, torch.full_like(target_logits, -1 / n_targets))
        ctx.save_for_backward(grad_vectors, grad_items, grad_bias)
        mean: Tensor = losses.mean()
        return mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_vectors, grad_items, grad_bias = ctx.saved_tensors
        (upstream,) = grads
        for grad in (grad_vectors, grad_items, grad_bias):
            if grad is not None:
                grad.mul_(upstream)  # ours alone: the forward pass made them for this one use
        return grad_vectors, grad_items, None, grad_bias, None, None


_buffers: dict[torch.dtype, Tensor] = {}


def _buffer(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """A (rows, columns) scratch matrix; one allocation is kept per dtype, grown when it must be."""
    held = _buffers.get(dtype)
    if held is None or held.numel() < rows * columns:
        held = _buffers[dtype] = torch.empty(rows * columns, dtype=dtype)
    return held[: rows * columns].view(rows, columns)


def _row_sums(matrix: Tensor) -> Tensor:
    """Row sums in float32; in a low dtype each of 64 partial sums is rounded, not their total."""
    if matrix.dtype == torch.float32:
        return matrix.sum(1)
    even = matrix.shape[1] // _PARTIAL_SUMS * _PARTIAL_SUMS
    partial = matrix[:, :even].reshape(len(matrix), _PARTIAL_SUMS, -1).sum(2)  # (N, 64)
    sums: Tensor = partial.float().sum(1) + matrix[:, even:].float().sum(1)
    return sums
