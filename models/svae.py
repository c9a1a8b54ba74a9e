"""SVAE: Sachdeva et al., Sequential Variational Autoencoders for Collaborative Filtering, WSDM 2019.

    h_t = GRU(x_t, h_{t−1})                                  (1)
    [μ_t; log σ_t²] = W tanh(W_e h_t + b_e) + b              (2)
    z_t ~ N(μ_t, diag σ_t²)                                  (3)
    π_t = softmax(V tanh(W_d z_t + b_d) + b')                (4)
    loss = −mean log π_t[i] over the next k = 4 clicks i, + β mean KL(N(μ_t, σ_t²) ‖ N(0, 1))    (5)

β rises linearly from 0 to 0.2. Served is μ_t: sampling is for training alone.

Departures: the authors' code samples with exp(s) as the deviation while its KL takes the same s for the log
of the variance; here s = log σ² in both. Their loss of a user is the sum over positions of the first term
beside the mean of the second, and their β starts from 0 again every epoch, so that it stays far below 0.2;
here both terms are means over positions, and β rises once, over `anneal_steps` steps. Batches of 1,024
positions instead of one user at a time.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from models.base import PAD, Batch, Batching, Family, Recipe, SessionEncoder
from models.layers import GRU


class SVAE(SessionEncoder):
    """A GRU whose state is read as a distribution over what the session is about."""

    recipe: Recipe = Recipe(epochs=8, batch_size=1024, lr=3e-3, lr_step=3, patience=2, horizon=4)
    family: ClassVar[Family] = "sequence"
    batching: Batching = "positions"
    causal: ClassVar[bool] = True
    steps: Tensor

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 256,
        hidden: int = 200,
        dim_output: int = 150,
        latent: int = 64,
        kl_weight: float = 0.2,
        anneal_steps: int = 1000,
    ) -> None:
        super().__init__()
        self.kl_weight = kl_weight
        self.anneal_steps = anneal_steps
        self.clicks = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.gru = GRU(dim, hidden)
        self.encoder = nn.Sequential(
            nn.Linear(hidden, dim_output), nn.Tanh(), nn.Linear(dim_output, 2 * latent)
        )
        self.decoder = nn.Sequential(nn.Linear(latent, dim_output), nn.Tanh())
        self.items = nn.Embedding(n_items + 1, dim_output)  # V
        self.bias = nn.Parameter(torch.zeros(n_items + 1))  # b'
        self.register_buffer("steps", torch.zeros(()))  # trained so far; resumed with the weights
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(dim_output))

    def posterior(self, sessions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent at every position, both (B, L, latent)."""
        mean, log_variance = self.encoder(self.gru.states(self.clicks(sessions))).chunk(2, 2)  # (1), (2)
        return mean, log_variance

    def forward_all(self, sessions: Tensor) -> Tensor:
        mean, _ = self.posterior(sessions)
        vectors: Tensor = self.decoder(mean)  # (B, L, 150)
        return vectors

    def loss(self, batch: Batch) -> Tensor:
        wanted = batch.targets > PAD  # (B, L)
        mean, log_variance = (part[wanted] for part in self.posterior(batch.sessions))  # (N, latent)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()  # (3)
        horizon = self.recipe.horizon
        ahead = pad(batch.targets, (0, horizon - 1)).unfold(1, horizon, 1)  # (B, L, k)
        likelihood = self.score_loss(self.decoder(z), ahead[wanted], batch.negatives)  # (4)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        beta = self.kl_weight * (self.steps / self.anneal_steps).clamp(max=1)
        self.steps += 1
        return likelihood + beta * divergence  # (5)

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def item_bias(self) -> Tensor | None:
        return self.bias
