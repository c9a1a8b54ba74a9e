"""SASRec: Kang & McAuley, Self-Attentive Sequential Recommendation, ICDM 2018.

    x_t = √D · v_t + p_t                                     (1)  p: learned positions
    x ← x + Dropout(Attention(LN(x)))                        (2)  causal
    x ← x + Dropout(W₂ ReLU(W₁ LN(x) + b₁) + b₂)             (3)  two blocks of (2), (3)
    r_i = v_i · LN(x_t)                                      (4)  the input's item table

Departures: D = 100 instead of 50, and the full cross-entropy; the paper's is `loss=bce` on uniform
negatives (`in_batch=false`). By default every v and the left side of (4) are L2-normalised, and cosines
scaled (`head="niser"`); `head="native"` is the paper's. Positions count from the first click instead of
back from the end of a fixed window, so that one pass gives every prefix the vector it has alone. Attention
has an output projection, as Transformers do, no dropout on its weights, and takes keys and values from
LN(x) too, where the authors' code takes them from x.
"""

from __future__ import annotations

from models.base import Recipe
from models.layers import CausalTransformer


class SASRec(CausalTransformer):
    """Causal self-attention over the clicks; the vector at a click scores what comes next."""

    recipe: Recipe = Recipe(epochs=8, batch_size=1024, lr=2e-3, lr_step=3, patience=2)
