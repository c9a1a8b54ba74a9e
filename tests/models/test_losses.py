"""Each loss against values worked out by hand; the fused cross-entropy against torch's own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy as reference
from torch.nn.functional import normalize

from models import losses
from models.base import Batch, SessionEncoder
from models.bert4rec import BERT4Rec
from models.gru import GRUEncoder
from models.losses import (
    Loss,
    Negatives,
    Objective,
    Rows,
    Taught,
    bce,
    bpr,
    bpr_max,
    cross_entropy,
    gbce,
    sampled_ce,
    sampled_loss,
    top1,
    top1_max,
)
from models.sessions import Sessions
from models.svae import SVAE
from training.learn.registry import find_model


def rows(table: torch.Tensor) -> Rows:
    """Looks rows of a table up."""
    return lambda items: table[items]


def inputs(n: int = 300) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    vectors = (3 * torch.randn(17, 8)).requires_grad_()
    items = torch.randn(n, 8).requires_grad_()
    bias = torch.randn(n).requires_grad_()
    targets = torch.randint(n, (17,))
    targets[1] = targets[0]  # a target twice in a batch: its gradients add up
    return vectors, items, bias, targets


@pytest.mark.parametrize(("with_bias", "unit_items"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("size", [0.2, 1.0], ids=["no logit can overflow", "some could"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_equals_torch(
    with_bias: bool, unit_items: bool, size: float, dtype: torch.dtype, tolerance: float
) -> None:
    vectors, items, bias, targets = inputs()
    vectors.data *= size
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


@pytest.mark.parametrize(("with_bias", "unit_items"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("size", [0.2, 1.0, 100.0], ids=["no logit can overflow", "some could", "some would"])
@pytest.mark.parametrize("several", [False, True], ids=["a target each", "several"])
def test_items_in_chunks_are_the_same_softmax(
    with_bias: bool, unit_items: bool, size: float, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradients, also where the highest logit comes last; never more logits held than allowed."""
    vectors, items, bias, targets = inputs()
    vectors.data *= size
    with torch.no_grad():
        items[-1] = 3 * vectors[0] / vectors[0].norm()
    if several:
        targets = torch.stack([targets, torch.full_like(targets, -1), targets.flip(0)], 1)
    parameters = [vectors, items, bias] if with_bias else [vectors, items]

    def value() -> list[torch.Tensor]:
        losses.free_buffers()
        loss = cross_entropy(vectors, items, targets, bias=bias if with_bias else None, normalise=unit_items)
        return [loss.detach(), *torch.autograd.grad(loss, parameters)]

    whole = value()
    limit = 17 * 4 * 70  # bytes of 70 items' logits: 300 items are five chunks of 60
    monkeypatch.setitem(losses._LARGEST_BUFFER, "cpu", limit)
    for chunked, expected in zip(value(), whole, strict=True):
        torch.testing.assert_close(chunked, expected, atol=1e-6, rtol=1e-4)
    assert {held.numel() for held in losses._buffers.values()} == {17 * 64}, "rows begin a cache line apart"
    (held,) = losses._buffers.values()
    cross_entropy(vectors, items, targets, bias=bias if with_bias else None, normalise=unit_items)
    assert held is losses._buffers[torch.float32], "the next step takes the same memory"
    losses.free_buffers()
    assert not losses._buffers


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


def test_many_targets_of_one_vector() -> None:
    """The mean over all pairs, with gradients, equals torch's on the pairs written out."""
    vectors, items, bias, _ = inputs()
    torch.manual_seed(1)
    targets = torch.randint(300, (17, 3))
    targets[4, 1:] = -1
    targets[9, 0] = targets[9, 2]
    rows, columns = (targets >= 0).nonzero(as_tuple=True)
    expected = reference((vectors @ items.T + bias)[rows], targets[rows, columns])
    loss = cross_entropy(vectors, items, targets, bias=bias)
    torch.testing.assert_close(loss, expected)
    parameters = [vectors, items, bias]
    for grad, expected_grad in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(grad, expected_grad, atol=1e-5, rtol=1e-4)


# By hand: a target scored ln 2 = r_t against negatives of 0 and ln 3; a third negative is the target itself.
# σ(ln x) = x / (1 + x). Their softmax: 1/4, 3/4. σ(r_t − 0) = 2/3, σ(r_t − ln 3) = 2/5.
LN3 = math.log(3)
R_TARGET = torch.tensor([[math.log(2)]])
R = torch.tensor([[0.0, LN3, 9.0]])
REAL = torch.tensor([[True, True, False]])
SQUARED = 1 / (1 + math.exp(-(LN3**2)))  # σ(ln²3); σ(0²) = 1/2


def by_hand_bpr_max() -> float:
    """No negative score: ELU(0.5) changes nothing. Σ s_j σ = 1/4 · 2/3 + 3/4 · 2/5 = 7/15."""
    return -math.log(7 / 15) + 2.0 * (3 / 4 * LN3**2)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (sampled_ce, math.log(1 + (1 + 3) / 2)),
        (bce, -math.log(2 / 3) - (math.log(1 / 2) + math.log(1 / 4)) / 2),
        # k = 3 of n − 1 = 6 items and t = 0.5: β = 1 − 0.5 · (1 − 1/2) = 3/4
        (lambda a, b, c: gbce(a, b, c, 7, 0.5), -3 / 4 * math.log(2 / 3) - math.log(1 / 2) - math.log(1 / 4)),
        (bpr, -(math.log(2 / 3) + math.log(2 / 5)) / 2),
        (top1, ((1 / 3 + 1 / 2) + (3 / 5 + SQUARED)) / 2),
        (top1_max, 1 / 4 * (1 / 3 + 1 / 2) + 3 / 4 * (3 / 5 + SQUARED)),
        (lambda a, b, c: bpr_max(a, b, c, 2.0), by_hand_bpr_max()),
    ],
    ids=["sampled-ce", "bce", "gbce", "bpr", "top1", "top1-max", "bpr-max"],
)
def test_by_hand(loss: Callable[..., torch.Tensor], expected: float) -> None:
    torch.testing.assert_close(loss(R_TARGET, R, REAL), torch.tensor([expected]))


def test_bpr_max_flattens_scores_below_zero() -> None:
    """ELU(0.5): a score of −ln 2 becomes 0.5 · (1/2 − 1) = −1/4."""
    loss = bpr_max(torch.tensor([[0.0]]), torch.tensor([[-math.log(2)]]), torch.tensor([[True]]), 0.0)
    torch.testing.assert_close(loss, -torch.sigmoid(torch.tensor([0.25])).log())


@pytest.mark.parametrize(("alpha", "score"), [(1.0, -1 / 2), (0.5, -1 / 4), (0.0, -math.log(2))])
def test_bpr_maxs_elu_has_an_alpha(alpha: float, score: float) -> None:
    """ELU(α) makes α · (1/2 − 1) of −ln 2; 0 leaves it."""
    loss = bpr_max(torch.tensor([[0.0]]), torch.tensor([[-math.log(2)]]), torch.tensor([[True]]), 1.0, alpha)
    torch.testing.assert_close(loss, -torch.sigmoid(torch.tensor([-score])).log() + score**2)


@pytest.mark.parametrize("loss", ["bpr", "top1", "bpr-max", "top1-max"])
def test_tanh_is_of_every_score(loss: Loss) -> None:
    """Scores 2 of the target, 1 and −3 of the negatives."""
    items, negatives = (
        torch.tensor([[2.0], [1.0], [-3.0]]),
        Negatives(torch.tensor([1, 2]), torch.zeros(2), 3),
    )
    one, target = torch.ones(1, 1), torch.tensor([0])
    squashed = sampled_loss(Objective(loss, tanh=True), one, rows(items), target, negatives)
    plain = sampled_loss(Objective(loss), one, rows(items.tanh()), target, negatives)
    torch.testing.assert_close(squashed, plain)


def test_the_objectives_alpha_is_bpr_maxs() -> None:
    items, negatives = torch.tensor([[0.5], [-1.0]]), Negatives(torch.tensor([1]), torch.zeros(1), 2)
    one, target = torch.ones(1, 1), torch.tensor([0])
    values = [
        float(sampled_loss(Objective("bpr-max", elu=a), one, rows(items), target, negatives))
        for a in (0.0, 0.5, 1.0)
    ]
    assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("size", "tolerance"),
    [(0.2, 1e-5), (1.0, 1e-5), (100.0, 3e-4)],  # float32 rounds a score of 1,000 by 6e-5
    ids=["no logit can overflow", "some could", "some would"],
)
@pytest.mark.parametrize("logq_target", [False, True])
@pytest.mark.parametrize("unit_items", [False, True])
def test_sampled_ce_equals_plain_operators(
    size: float, tolerance: float, logq_target: bool, unit_items: bool
) -> None:
    """Value and gradients of the fused one, with everything that shifts a score or takes a negative out."""
    vectors, items, bias, targets = inputs()
    vectors.data *= size
    drawn = torch.cat([targets, torch.randint(300, (30,))])
    held = torch.from_numpy(np.unique(targets.numpy()))
    often = torch.randn(47)
    examples = torch.arange(17) // 3
    negatives = Negatives(drawn, often, 300, held, torch.randn(len(held)), examples)
    parameters = [vectors, items, bias]

    scored = normalize(items, dim=1) if unit_items else items
    r_target = (vectors * scored[targets]).sum(1) + bias[targets]
    if logq_target:
        r_target = r_target - negatives.log_expected_of(targets)
    r = vectors @ scored[drawn].T + bias[drawn] - often
    real = drawn != targets[:, None]
    real[:, :17] &= examples != examples[:, None]
    expected = sampled_ce(r_target[:, None], r, real).mean()
    expected_grads = torch.autograd.grad(expected, parameters)

    objective = Objective("sampled-ce", logq_target=logq_target)
    loss = sampled_loss(
        objective,
        vectors,
        rows(items),
        targets,
        negatives,
        bias=rows(bias),
        normalise=unit_items,
        rows=examples,
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for grad, expected_grad in zip(torch.autograd.grad(3 * loss, parameters), expected_grads, strict=True):
        scale = float(expected_grad.abs().max())
        torch.testing.assert_close(grad / 3 / scale, expected_grad / scale, atol=tolerance, rtol=0)


def test_sampled_ce_holds_one_matrix_of_scores() -> None:
    """What plain operators would hold of them for the way back is a dozen times as much."""
    vectors, items, _, targets = inputs()
    negatives = Negatives(torch.arange(300), torch.zeros(300), 300)
    held: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sampled_loss(Objective("sampled-ce"), vectors, rows(items), targets, negatives)
    assert held
    assert max(held) <= 300 * 8, "of items and their vectors, not of scores"


ALL: list[Loss] = ["sampled-ce", "bce", "gbce", "bpr", "top1", "top1-max", "bpr-max"]


@pytest.mark.parametrize("loss", ALL)
def test_a_target_without_any_negative_has_finite_loss_and_gradients(loss: Loss) -> None:
    vectors, items, bias, _ = inputs()
    targets = torch.zeros(17, dtype=torch.int64)
    negatives = Negatives(torch.zeros(4, dtype=torch.int64), torch.zeros(4), 300)  # all of them the target
    value = sampled_loss(Objective(loss), vectors, rows(items), targets, negatives, bias=rows(bias))
    grads = torch.autograd.grad(value, [vectors, items, bias])
    assert value.isfinite()
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("hardest", [0, 2])
@pytest.mark.parametrize("loss", [loss for loss in ALL if loss != "gbce"])  # which counts the sample
def test_an_example_s_other_targets_are_no_negatives_of_its(loss: Loss, hardest: int) -> None:
    """As if they were not in the sample; an item that another example has, too, is there once more."""
    vectors, items, _, _ = inputs(8)
    vectors, targets = vectors[:3], torch.tensor([1, 2, 3])
    # Of example 0: 1 and 2; of example 1: 3 and 2; drawn: 5, 6.
    shared = Negatives(
        torch.tensor([1, 2, 3, 2, 5, 6]), torch.arange(6.0), 8, rows=torch.tensor([0, 0, 1, 1])
    )
    objective = Objective(loss, hardest=hardest)
    found = sampled_loss(objective, vectors, rows(items), targets, shared, rows=torch.tensor([0, 0, 1]))
    each = []
    for row, kept in enumerate([[2, 3, 4, 5], [2, 3, 4, 5], [0, 1, 4, 5]]):
        alone = Negatives(shared.items[kept], shared.log_expected[kept], 8)
        part = slice(row, row + 1)
        each.append(sampled_loss(objective, vectors[part], rows(items), targets[part], alone))
    torch.testing.assert_close(found, torch.stack(each).mean())


@pytest.mark.parametrize(
    ("name", "head"),
    [("stamp", "native"), ("stamp", "niser"), ("gru", "niser"), ("core", "niser"), ("tron", "native")],
)
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("loss", ["ce", "sampled-ce"])
def test_a_teachers_answers_are_a_part_of_every_target(
    name: str, head: str, weight: float, loss: Loss
) -> None:
    """Value and gradients are those of a softmax with soft targets (Hinton et al., 2015)."""
    torch.manual_seed(0)
    found = find_model(name)
    hyper = {"head": head} if "head" in found.hyperparameters() else {}
    model = found.build(Sessions(np.array([1, 2], np.int32), np.array([0, 2]), 12), dim=8, **hyper).eval()
    model.recipe = dataclasses.replace(model.recipe, loss=loss, logq=False, teacher_weight=weight)
    clicks = torch.tensor([[1, 2, 3], [4, 5, 0]])
    targets = torch.tensor([[2, 3, 7], [5, 1, 0]]) if model.batching == "positions" else torch.tensor([7, 1])
    every = Negatives(torch.arange(1, 13), torch.zeros(12), 12)  # a sample of all items
    answered = torch.tensor([0, 3, 7, 9])  # a teacher may have fewer answers than others, PAD in their place
    shape = (*targets.shape, 3)
    places, shares = torch.randint(1, 4, shape), torch.rand(shape)
    places[..., 2], shares[..., 2] = 0, 0.0
    shares /= shares.sum(-1, keepdim=True)
    batch = Batch(clicks, targets, negatives=every, taught=Taught(answered, places, shares))

    vectors, next_clicks = model.pairs(batch)
    items = model.item_vectors()[1:]
    bias = None if model.head == "niser" else model.item_bias()
    logits = model.scale * vectors @ (normalize(items, dim=1) if model.head == "niser" else items).T
    if bias is not None:
        logits = logits + bias[1:]
    soft = torch.zeros(len(logits), 13).scatter_add_(
        1, answered[places].flatten(0, -2)[batch.places], shares.flatten(0, -2)[batch.places]
    )[:, 1:]
    mixed = (1 - weight) * torch.nn.functional.one_hot(next_clicks - 1, 12) + weight * soft
    expected = reference(logits, mixed)
    parameters = [each for each in model.parameters() if each.requires_grad]
    torch.testing.assert_close(model.loss(batch), expected, atol=1e-5, rtol=1e-5)
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    grads = torch.autograd.grad(model.loss(batch), parameters, allow_unused=True)
    for grad, wanted_grad in zip(grads, wanted, strict=True):
        if wanted_grad is None:
            assert grad is None
        else:
            torch.testing.assert_close(grad, wanted_grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model", [GRUEncoder, SVAE, BERT4Rec])
def test_every_model_says_which_example_its_targets_are_of(model: type[SessionEncoder]) -> None:
    """A sample of the session's own clicks and one other item is a sample of that one alone."""
    clicks = torch.arange(1, 21)
    targets = clicks[None, 1:] if model.batching == "positions" else clicks[-1:]
    own = Negatives(
        torch.cat([targets.flatten(), torch.tensor([30])]),
        torch.zeros(targets.numel() + 1),
        40,
        rows=torch.zeros(targets.numel(), dtype=torch.int64),
    )
    values = []
    for negatives in (own, Negatives(torch.tensor([30]), torch.zeros(1), 40)):
        torch.manual_seed(0)  # the weights, what is masked, and what is drawn of a distribution
        encoder = model(40, dim=8).eval()
        encoder.recipe = dataclasses.replace(model.recipe, loss="sampled-ce", negatives=1)
        values.append(encoder.loss(Batch(clicks[None, :-1], targets, negatives=negatives)))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("normalise", [False, True])
def test_descent_ranks_the_target_first(loss: Loss, normalise: bool) -> None:
    """A few steps down any loss bring the target above the negatives, with both heads."""
    vectors, items, bias, targets = inputs(20)
    vectors.data *= 0.1  # scores near 0, as training begins
    negatives = Negatives(torch.arange(20), torch.zeros(20), 19)
    optimizer = torch.optim.Adam([vectors, items, bias], lr=0.05)
    for _ in range(300):
        value = sampled_loss(
            Objective(loss), vectors, rows(items), targets, negatives, bias=rows(bias), normalise=normalise
        )
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
    scored = normalize(items, dim=1) if normalise else items
    scores = vectors @ scored.T + bias
    assert (scores.argmax(1) == targets).float().mean() > 0.8  # top1 saturates on a few


def test_logq_makes_a_sample_speak_for_every_item() -> None:
    """Drawn in any proportion, corrected negatives estimate the full softmax."""
    vectors, items, _, targets = inputs(50)
    torch.manual_seed(0)
    proportion = torch.rand(50) + 0.05
    proportion /= proportion.sum()
    drawn = torch.multinomial(proportion, 200_000, replacement=True)
    negatives = Negatives(drawn, (len(drawn) * proportion[drawn]).log(), 50)
    estimate = sampled_loss(Objective("sampled-ce"), vectors, rows(items), targets, negatives)
    torch.testing.assert_close(estimate, reference(vectors @ items.T, targets), atol=0.02, rtol=0.01)
    uncorrected = sampled_loss(Objective("sampled-ce", logq=False), vectors, rows(items), targets, negatives)
    assert uncorrected > estimate + 1


def test_logq_corrects_the_target_too_if_asked() -> None:
    """As GRU4Rec's code: −ln c of the target and of each negative. By hand: r = 1, 2, 3; c = 2, 4, 8."""
    items = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    often = torch.tensor([1.0, 2.0, 4.0, 8.0]).log()
    negatives = Negatives(torch.tensor([2, 3]), often[2:], 3, torch.tensor([1, 3]), often[[1, 3]])
    objective = Objective("sampled-ce", logq_target=True)
    loss = sampled_loss(objective, torch.ones(1, 1), rows(items), torch.tensor([1]), negatives)
    target, others = math.e / 2, math.e**2 / 4 + math.e**3 / 8
    assert float(loss) == pytest.approx(math.log((target + others) / target), rel=1e-5)


def test_hardest_counts_only_the_highest_scored_negatives() -> None:
    vectors = torch.tensor([[1.0]])
    items = torch.tensor([[2.0], [5.0], [4.0], [3.0]])
    negatives = Negatives(torch.tensor([1, 2, 3, 0]), torch.zeros(4), 4)  # the last is the target
    loss = sampled_loss(
        Objective("sampled-ce", logq=False, hardest=2), vectors, rows(items), torch.tensor([0]), negatives
    )
    torch.testing.assert_close(loss, torch.tensor([2.0, 5.0, 4.0]).logsumexp(0) - 2.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"negatives": -1}, "negatives must be at least 0, not -1"),
        ({"hardest": -1}, "hardest must be at least 0, not -1"),
        ({"elu": -0.5}, "elu must be at least 0, not -0.5"),
        ({"horizon": 0}, "horizon must be at least 1, not 0"),
        ({"loss": "bpr", "in_batch": False}, "loss bpr needs negatives"),
    ],
)
def test_wrong_objectives_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(**wrong)  # type: ignore[arg-type]
