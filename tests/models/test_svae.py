"""SVAE's objective against its equation, and the annealing that survives a restart."""

from __future__ import annotations

import dataclasses

import torch
from torch.distributions import Normal, kl_divergence

from models.base import PAD, Batch
from models.svae import SVAE


def small_model() -> SVAE:
    torch.manual_seed(0)
    return SVAE(20, dim=8, hidden=10, dim_output=8, latent=4, kl_weight=0.5, anneal_steps=4)


def some_batch() -> Batch:
    """Sessions 3 5 7 9 2 8 and 4 6."""
    return Batch(
        torch.tensor([[3, 5, 7, 9, 2], [4, PAD, PAD, PAD, PAD]]),
        torch.tensor([[5, 7, 9, 2, 8], [6, PAD, PAD, PAD, PAD]]),
    )


def test_loss_is_the_likelihood_of_the_next_four_clicks_and_the_divergence() -> None:
    model, batch = small_model(), some_batch()
    model.recipe = dataclasses.replace(model.recipe, horizon=4)
    model.steps.fill_(3)
    mean, log_variance = (part[batch.targets > PAD] for part in model.posterior(batch.sessions))
    deviation = log_variance.exp().sqrt()
    torch.manual_seed(7)
    z = Normal(mean, deviation).rsample()
    scores = model.decoder(z) @ model.item_vectors()[1:].T + model.bias[1:]
    ahead = [[5, 7, 9, 2], [7, 9, 2, 8], [9, 2, 8], [2, 8], [8], [6]]
    likelihoods = [scores[row].log_softmax(0)[item - 1] for row, items in enumerate(ahead) for item in items]
    divergence = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(1).mean()
    torch.manual_seed(7)
    expected = -torch.stack(likelihoods).sum() / len(ahead) + 0.5 * 3 / 4 * divergence
    torch.testing.assert_close(model.loss(batch), expected)


def test_the_weight_of_the_divergence_rises_to_its_cap_and_is_resumed() -> None:
    model, batch = small_model(), some_batch()

    def loss(one: SVAE) -> float:
        torch.manual_seed(1)
        return one.loss(batch).item()

    losses = [loss(model) for _ in range(3)]
    resumed = small_model()
    resumed.load_state_dict(model.state_dict())
    losses += [loss(model) for _ in range(3)]
    assert losses[0] < losses[1] < losses[2] < losses[3] < losses[4] == losses[5]
    assert [loss(resumed) for _ in range(3)] == losses[3:]


def test_what_is_served_is_not_sampled() -> None:
    model = small_model().eval()
    sessions = some_batch().sessions
    assert torch.equal(model(sessions), model(sessions))
