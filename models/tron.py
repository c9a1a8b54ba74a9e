"""TRON: Wilm et al., Scaling Session-Based Transformer Recommendations using Optimized Negative Sampling and
Loss Functions, RecSys 2023.

SASRec's encoder under another loss, for catalogues too large for a full softmax:

    x_t = √D · v_t + p_t                                     (1)  p: learned positions
    s_t = LN(blocks(x)_t),  r_i = v_i · s_t                  (2)  causal, two blocks
    L = −r_t + log(e^{r_t} + Σ_{j ∈ top-k} e^{r_j})          (3)

In (3) t is the target and top-k its 100 highest-scored negatives, among 16,384 uniform ones that all
targets of a step share.

Departures: none of the other clicks of a batch are negatives (the authors draw 127 a session from them;
`in_batch=true`): a step here has 1,024 targets, and without them validation on yoochoose1_64 after an epoch
was 57.5/26.4, with them 53.1/25.6, with them corrected for popularity 42.8/21.0, all three with repeats in
the sample, which took the places of other hard items. Now its items are distinct: 59.4/26.9. D = 100
instead of 200, dropout 0.2 instead of 0.05. Head, positions and attention as in SASRec here: by default
every v and s are L2-normalised, and cosines scaled (`head="niser"`; the authors' is `native`), and
positions count from the first click.
"""

from __future__ import annotations

from models.base import Recipe
from models.layers import CausalTransformer


class TRON(CausalTransformer):
    """Causal self-attention, trained on the hardest of many shared negatives."""

    recipe: Recipe = Recipe(
        loss="sampled-ce",
        negatives=16_384,
        in_batch=False,
        hardest=100,
        epochs=7,
        batch_size=1024,
        lr=2e-3,
        lr_step=5,
        patience=2,
    )
