"""Training losses that any encoder can use; r_t is a target's score, r_j a negative's, k their number.

ce          −r_t + log Σ_i e^{r_i}, over all items i
sampled-ce  −r_t + log(e^{r_t} + Σ_j e^{r_j} / c_j), c_j: how often j is to be expected in the sample (logQ)
bce         −log σ(r_t) − mean_j log σ(−r_j)
gbce        −β log σ(r_t) − Σ_j log σ(−r_j), β = 1 − t(1 − α), α = k / (n − 1)
bpr         −mean_j log σ(r_t − r_j)
top1        mean_j [σ(r_j − r_t) + σ(r_j²)]
top1-max    Σ_j s_j [σ(r_j − r_t) + σ(r_j²)], s_j = softmax over the negatives
bpr-max     −log Σ_j s_j σ(r_t − r_j) + λ Σ_j s_j r_j², after ELU(α) on every score

Sources: bce Kang & McAuley, ICDM 2018 (one negative a target; here the mean over a shared sample, the same in
expectation); gbce Petrov & Macdonald, RecSys 2023; top1 Hidasi et al., ICLR 2016; the maxima Hidasi &
Karatzoglou, CIKM 2018; logQ Bengio & Senécal, 2008. A negative that is its target is none, where GRU4Rec's
code leaves out only the target's own place in the batch, and divides its means by the whole sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import elu, embedding, embedding_bag, logsigmoid, normalize

from models.bounds import require

Loss = Literal["ce", "sampled-ce", "bce", "gbce", "bpr", "top1", "bpr-max", "top1-max"]


@dataclass(frozen=True)
class Objective:
    """What training minimises. Every loss but `ce` samples negatives, which a step's targets share."""

    loss: Loss = "ce"
    negatives: int = 0  # drawn for each step
    negatives_power: float = 0.0  # in proportion to support to this power: 0 uniform, 1 popularity
    in_batch: bool = True  # the step's other targets are negatives too, but those of the same example
    logq: bool = True  # sampled-ce: correct for how often a negative is to be expected
    logq_target: bool = False  # and the target's score likewise, as GRU4Rec's code does
    hardest: int = 0  # only each target's highest-scored negatives, so many; 0: all
    calibration: float = 0.75  # t of gbce: 0 is bce over all negatives, 1 as calibrated as ce
    penalty: float = 1.0  # λ of bpr-max
    elu: float = 0.5  # α of bpr-max; 0: scores as they are
    tanh: bool = False  # of every score, as GRU4Rec's first paper has it; bpr, top1 and the maxima
    horizon: int = 1  # a position is trained on so many next clicks

    def __post_init__(self) -> None:
        require(
            at_least=0, negatives=self.negatives, hardest=self.hardest, elu=self.elu, penalty=self.penalty
        )
        require(at_least=0, at_most=1, calibration=self.calibration)
        require(at_least=1, horizon=self.horizon)
        if self.loss != "ce" and not self.negatives and not self.in_batch:
            raise ValueError(f"loss {self.loss} needs negatives: in_batch, or negatives above 0")


@dataclass(frozen=True)
class Negatives:
    """The sample of one step: items, and the log of how often each was to be expected in it.

    Items may repeat, but not where only the hardest count. Where targets are corrected, too, `target_items`
    are the step's targets, each once. `rows` says of the first of the items which one of the step's examples
    they are targets of; −1: of several, or drawn.
    """

    items: Tensor  # (K,) int64
    log_expected: Tensor  # (K,)
    n_items: int  # of how many
    target_items: Tensor | None = None  # (T,) int64, ascending
    log_expected_targets: Tensor | None = None  # (T,)
    rows: Tensor | None = None  # (M,) int64, M <= K

    def log_expected_of(self, targets: Tensor) -> Tensor:
        """The log of how often each of the step's targets was to be expected, in their shape."""
        assert self.target_items is not None, "the sampler says how often a target is drawn"
        assert self.log_expected_targets is not None
        return self.log_expected_targets[torch.searchsorted(self.target_items, targets)]


@dataclass(frozen=True)
class Taught:
    """What a teacher answers in place of each target: its best items, and how 1 is shared among them."""

    items: Tensor  # (U,) int64, all that it answers in this step, each once
    places: Tensor  # (B, K), or (B, L, K) where examples have several targets, int64: which of `items`
    shares: Tensor  # float32, likewise; they add up to 1


Rows = Callable[[Tensor], Tensor]  # (N,) items to their rows of a table: a step needs few of them


def sampled_loss(
    objective: Objective,
    vectors: Tensor,
    item_vectors: Rows,
    targets: Tensor,
    negatives: Negatives,
    *,
    bias: Rows | None = None,
    normalise: bool = False,
    rows: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean loss of (N, D) vectors and their (N,) targets against the step's negatives.

    `item_vectors` gives (K, D) of (K,) items, `bias` (K,). With `normalise` items are divided by their L2
    norms first (the NISER head). `rows` (N,) are the examples that the targets are of: their other targets
    are near each one, and always there, where a negative is taken to be there by chance. Which negatives are
    the hardest is looked up in `dtype`.
    """
    of_targets, of_negatives = item_vectors(targets), item_vectors(negatives.items)
    if normalise:
        of_targets, of_negatives = normalize(of_targets, dim=1), normalize(of_negatives, dim=1)
    r_target = (vectors * of_targets).sum(1, keepdim=True)  # (N, 1)
    shift = torch.zeros_like(negatives.log_expected)  # (K,), of each negative's score
    if objective.loss == "sampled-ce" and objective.logq:
        shift = shift - negatives.log_expected
        if objective.logq_target:
            r_target = r_target - negatives.log_expected_of(targets)[:, None]
    if bias is not None:
        r_target, shift = r_target + bias(targets)[:, None], shift + bias(negatives.items)
    real = negatives.items != targets[:, None]  # (N, K)
    if rows is not None and negatives.rows is not None:
        real[:, : len(negatives.rows)] &= negatives.rows != rows[:, None]
    only_hardest = 0 < objective.hardest < len(negatives.items)
    if objective.loss == "sampled-ce" and not only_hardest:
        loss: Tensor = _SampledCrossEntropy.apply(  # type: ignore[no-untyped-call]
            vectors, of_negatives, r_target[:, 0], shift, real
        )
        return loss
    if only_hardest:
        chosen = _hardest(objective.hardest, vectors, of_negatives, shift, real, dtype)
        few = embedding(chosen, of_negatives)  # (N, k, D): the gradient of all others is 0
        r = (few @ vectors[:, :, None]).squeeze(2) + shift[chosen]  # (N, k)
        real = real.gather(1, chosen)
    else:
        r = vectors @ of_negatives.T + shift  # (N, K)
    if objective.tanh and objective.loss in ("bpr", "top1", "bpr-max", "top1-max"):
        r_target, r = r_target.tanh(), r.tanh()
    match objective.loss:
        case "sampled-ce":
            losses = sampled_ce(r_target, r, real)
        case "bce":
            losses = bce(r_target, r, real)
        case "gbce":
            losses = gbce(r_target, r, real, negatives.n_items, objective.calibration)
        case "bpr":
            losses = bpr(r_target, r, real)
        case "top1":
            losses = top1(r_target, r, real)
        case "bpr-max":
            losses = bpr_max(r_target, r, real, objective.penalty, objective.elu)
        case "top1-max":
            losses = top1_max(r_target, r, real)
        case "ce":
            raise ValueError("ce looks at every item: use cross_entropy")
    return losses.mean()


def distillation(
    vectors: Tensor,
    item_vectors: Rows,
    targets: Tensor,
    taught: Taught,
    *,
    bias: Rows | None = None,
    normalise: bool = False,
) -> Tensor:
    """Mean of r_t − Σ_k q_k r_k over (N, D) vectors: how much a softmax's loss grows, target to teacher.

    Of a softmax with normaliser Z the loss is log Z − r_t on the target, and log Z − Σ_k q_k r_k on a
    teacher's shares q: λ times this, added to the first, is (1 − λ) of the first and λ of the second
    (Hinton et al., 2015, section 2), and Z, which is what costs, is formed once. `taught.places` and
    `taught.shares` are (N, K).
    """
    of_targets, answers = item_vectors(targets), item_vectors(taught.items)  # (N, D), (U, D)
    if normalise:
        of_targets, answers = normalize(of_targets, dim=1), normalize(answers, dim=1)
    expected = embedding_bag(taught.places, answers, per_sample_weights=taught.shares, mode="sum")  # (N, D)
    more = (vectors * (of_targets - expected)).sum(1)
    if bias is not None:
        more = more + bias(targets) - (taught.shares * bias(taught.items)[taught.places]).sum(1)
    return more.mean()


@torch.no_grad()
def _hardest(
    count: int,
    vectors: Tensor,
    of_negatives: Tensor,
    shift: Tensor,
    real: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """(N, count) places of each target's highest-scored negatives, those that are none last of all."""
    scores = vectors.to(dtype) @ of_negatives.to(dtype).T
    scores += shift.to(dtype)
    scores.masked_fill_(~real, -torch.inf)
    return scores.topk(count, 1, sorted=False).indices


# Below: scores (N, 1) of targets and (N, K) of negatives, `real` (N, K) where a negative counts; losses (N,).


def sampled_ce(r_target: Tensor, r: Tensor, real: Tensor) -> Tensor:
    """Softmax over the target and its negatives; scores already corrected by −log c_j."""
    every = torch.cat([r_target, r.masked_fill(~real, -torch.inf)], 1)
    return every.logsumexp(1) - r_target[:, 0]


def bce(r_target: Tensor, r: Tensor, real: Tensor) -> Tensor:
    """The target against one negative, in expectation."""
    return -logsigmoid(r_target[:, 0]) - _mean(logsigmoid(-r), real)


def gbce(r_target: Tensor, r: Tensor, real: Tensor, n_items: int, calibration: float) -> Tensor:
    """bce over all negatives, the target's probability raised to β against overconfidence."""
    alpha = min(1.0, r.shape[1] / (n_items - 1))
    beta = 1 - calibration * (1 - alpha)
    return -beta * logsigmoid(r_target[:, 0]) - (logsigmoid(-r) * real).sum(1)


def bpr(r_target: Tensor, r: Tensor, real: Tensor) -> Tensor:
    """The target above each negative, pair by pair."""
    return -_mean(logsigmoid(r_target - r), real)


def top1(r_target: Tensor, r: Tensor, real: Tensor) -> Tensor:
    """The target's approximate relative rank, and negatives pulled to 0."""
    return _mean(torch.sigmoid(r - r_target) + torch.sigmoid(r.square()), real)


def top1_max(r_target: Tensor, r: Tensor, real: Tensor) -> Tensor:
    """top1, each negative weighted by how close it is to being the highest."""
    return (_weights(r, real) * (torch.sigmoid(r - r_target) + torch.sigmoid(r.square()))).sum(1)


def bpr_max(r_target: Tensor, r: Tensor, real: Tensor, penalty: float, alpha: float = 0.5) -> Tensor:
    """The target above the highest negative, softly; λ keeps negatives small."""
    if alpha:
        r_target, r = elu(r_target, alpha), elu(r, alpha)
    weights = _weights(r, real)
    above = (weights * torch.sigmoid(r_target - r)).sum(1)
    return -(above + 1e-24).log() + penalty * (weights * r.square()).sum(1)


def _mean(terms: Tensor, real: Tensor) -> Tensor:
    return (terms * real).sum(1) / real.sum(1).clamp(min=1)


def _weights(r: Tensor, real: Tensor) -> Tensor:
    """Softmax over the real negatives; zeros where a row has none."""
    return r.masked_fill(~real, torch.finfo(r.dtype).min).softmax(1) * real


class _SampledCrossEntropy(torch.autograd.Function):
    """The mean of `sampled_ce` of (N, D) vectors and (K, D) negatives, whose scores are shifted by (K,).

    As in `_CrossEntropy` the gradients come of the forward pass, and of (N, K) only the exponentials
    E = exp(r − max) are held, in the buffer that is kept: plain operators make and fill a dozen such
    matrices. A shift s_j is a factor e^{s_j} of the small (K, D) and (K,) alone.
    """

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, of_negatives: Tensor, r_target: Tensor, shift: Tensor, real: Tensor
    ) -> Tensor:
        highest_shift = shift.max()
        factors = (shift - highest_shift).exp()  # (K,)
        exponentials = torch.mm(vectors, of_negatives.T, out=_buffer(len(vectors), of_negatives))
        if _safe(vectors, of_negatives.norm(dim=1).max()):
            exponentials.exp_().mul_(real)
            largest = highest_shift.expand(len(vectors))  # (N,)
        else:
            exponentials.masked_fill_(~real, torch.finfo(vectors.dtype).min)
            highest = exponentials.amax(1, keepdim=True)  # (N, 1)
            exponentials.sub_(highest).exp_().mul_(real)
            largest = highest[:, 0] + highest_shift
        log_normaliser = torch.logaddexp(r_target, largest + (exponentials @ factors).log())
        # Bounded for a row without a negative: its exponentials are 0, and 0 times infinity is no number.
        share = (largest - log_normaliser).clamp_(max=80).exp_() / len(vectors)
        grad_vectors = (exponentials @ (of_negatives * factors[:, None])) * share[:, None]
        grad_negatives = (exponentials.T @ (vectors * share[:, None])) * factors[:, None]
        grad_shift = (share @ exponentials) * factors if ctx.needs_input_grad[3] else None
        grad_target = ((r_target - log_normaliser).exp() - 1) / len(vectors)
        ctx.save_for_backward(grad_vectors, grad_negatives, grad_target, grad_shift)
        return (log_normaliser - r_target).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = grads
        saved = [None if grad is None else grad.mul_(upstream) for grad in ctx.saved_tensors]
        return (*saved, None)


_PARTIAL_SUMS = 64  # a row's sum of exponentials is rounded in this many parts, then added in float32
_SAFE_EXPONENT = 60.0  # exp(60) times a billion items is still far from the largest float
_LARGEST_BUFFER = {"cpu": 256 << 20, "cuda": 4 << 30}  # bytes; 1,024 targets times 131,000 items in bfloat16


def cross_entropy(
    vectors: Tensor,
    item_vectors: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    normalise: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean full-softmax cross-entropy, without ever holding (N, n) float32 logits, of many items even a part.

    `vectors` (N, D), `item_vectors` (n, D), `targets` in 0..n-1, `bias` (n,). Targets are (N,), or (N, K)
    with -1 for none: then the mean is over all of them. With `normalise` the item vectors are divided by
    their L2 norms first (the NISER head, which has no bias). The three products and the exponentials run in
    `dtype`; sums, norms and gradients are float32.
    """
    if bias is not None:  # one dimension more is cheaper than passes of its own over (N, n)
        assert not normalise
        vectors = torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1)
        item_vectors = torch.cat([item_vectors, bias[:, None]], 1)
    loss: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        vectors, item_vectors, targets, normalise, dtype
    )
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while the exponentials are at hand.

    Only unnormalised exponentials E = exp(logits − max) are stored, in one buffer that is kept between steps:
    fresh memory of this size would cost more than the arithmetic, since the kernel zeroes it page by page.
    The softmax is E / rowsum(E); the division is applied to the small (N, D) factors instead.

    Where E would take more than `_LARGEST_BUFFER`, the items go by in chunks, twice: the sums of all must be
    known before any item has its gradient. Sums are then of the highest logit so far, and scaled when a
    higher one comes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        item_vectors: Tensor,
        targets: Tensor,
        normalise: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        n_vectors = vectors.shape[0]
        norms = item_vectors.norm(dim=1, keepdim=True)  # (n, 1)
        inverse = norms.clamp_min(1e-12).reciprocal_() if normalise else None
        safe = _safe(vectors, 1 if normalise else norms.max())
        low_vectors = vectors.to(dtype)

        def scored(rows: slice) -> Tensor:  # (n', D)
            items = item_vectors[rows]
            return items if inverse is None else items * inverse[rows]

        def products(low_items: Tensor) -> Tensor:  # (N, n')
            logits = _buffer(n_vectors, low_items)
            return torch.mm(low_vectors, low_items.T, out=logits)

        chunks = _chunks(n_vectors, len(item_vectors), low_vectors)
        highest: Tensor | None = vectors.new_zeros(n_vectors, 1, dtype=dtype) if safe else None  # (N, 1)
        for rows in chunks:
            low_items = scored(rows).to(dtype)
            exponentials = products(low_items)
            before = highest
            if not safe:
                here = exponentials.amax(1, keepdim=True)
                highest = here if before is None else torch.maximum(before, here)
                exponentials.sub_(highest)
            exponentials.exp_()
            some, weighed = _row_sums(exponentials), (exponentials @ low_items).float()  # (N,), (N, D)
            if rows.start == 0:
                sums, grad_vectors = some, weighed
                continue
            if not safe:
                assert before is not None
                assert highest is not None
                shrunk = (before.float() - highest.float()).exp_()  # (N, 1)
                sums, grad_vectors = sums * shrunk[:, 0], grad_vectors * shrunk
            sums, grad_vectors = sums + some, grad_vectors + weighed
        assert highest is not None

        # Every pair of a vector and one of its targets: M in all, `each` (N,) of a vector.
        present = targets.view(n_vectors, -1) >= 0  # (N, K)
        each = present.sum(1)
        single = targets.dim() == 1
        pair_vectors = vectors if single else vectors.repeat_interleave(each, 0)  # (M, D)
        targets = targets if single else targets[present]  # (M,)
        n_pairs = len(targets)
        target_items = item_vectors[targets]  # (M, D)
        if inverse is not None:
            target_items = target_items * inverse[targets]
        target_logits = (pair_vectors * target_items).sum(1)
        log_normalisers = highest[:, 0].float() + sums.log()  # (N,)
        mean: Tensor = ((each * log_normalisers).sum() - target_logits.sum()) / n_pairs

        scale = (each / (sums * n_pairs))[:, None]  # mean over pairs, and the softmax's denominator
        grad_vectors.mul_(scale)
        if single:
            grad_vectors.sub_(target_items, alpha=1 / n_pairs)
        else:
            which = torch.arange(n_vectors, device=vectors.device).repeat_interleave(each)
            grad_vectors.index_add_(0, which, target_items, alpha=-1 / n_pairs)
        scaled = (vectors * scale).to(dtype)
        if len(chunks) == 1:
            grad_items = (exponentials.T @ scaled).float()  # (n, D)
        else:
            grad_items = torch.empty_like(item_vectors)
            for rows in chunks:
                exponentials = products(scored(rows).to(dtype))
                grad_items[rows] = exponentials.sub_(highest).exp_().T @ scaled
        grad_items.index_add_(0, targets, pair_vectors, alpha=-1 / n_pairs)
        if inverse is not None:  # back through v / ‖v‖
            for rows in chunks:
                items, grad = scored(rows), grad_items[rows]
                grad -= items * (grad * items).sum(1, keepdim=True)
                grad *= inverse[rows]
        ctx.save_for_backward(grad_vectors, grad_items)
        return mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_vectors, grad_items = ctx.saved_tensors
        (upstream,) = grads
        for grad in (grad_vectors, grad_items):
            grad.mul_(upstream)  # ours alone: the forward pass made them for this one use
        return grad_vectors, grad_items, None, None, None


def _safe(vectors: Tensor, largest_norm: Tensor | int) -> bool:
    """Whether no logit of (N, D) vectors can overflow, since no item's norm is beyond `largest_norm`.

    To ask a GPU would take longer than to look for the highest logits.
    """
    return not vectors.is_cuda and bool(vectors.norm(dim=1).max() * largest_norm < _SAFE_EXPONENT)


def _chunks(rows: int, n_items: int, like: Tensor) -> list[slice]:
    """The items in as few slices of about the same width as keep a buffer of `rows` within its limit."""
    most = max(1, _LARGEST_BUFFER[like.device.type] // (max(1, rows) * like.element_size()))
    width = math.ceil(n_items / math.ceil(n_items / most))
    return [slice(start, min(start + width, n_items)) for start in range(0, n_items, width)]


_ALIGNED = 32  # numbers: whole cache lines, of bfloat16, too
_buffers: dict[torch.dtype, Tensor] = {}


def _buffer(rows: int, items: Tensor) -> Tensor:
    """A (rows, len(items)) scratch matrix of the items' kind.

    One allocation is kept per dtype, grown when it must be; of a GPU's memory torch keeps what is freed. Rows
    begin a multiple of `_ALIGNED` apart: a product whose rows lie askew takes up to twice as long.
    """
    columns, dtype = len(items), items.dtype
    if items.device.type != "cpu":
        return items.new_empty(rows, columns)
    width = math.ceil(columns / _ALIGNED) * _ALIGNED
    held = _buffers.get(dtype)
    if held is None or held.numel() < rows * width:
        held = _buffers[dtype] = items.new_empty(rows * width)
    return held[: rows * width].view(rows, width)[:, :columns]


def free_buffers() -> None:
    """Let go of the scratch memory that is kept between steps."""
    _buffers.clear()


def _row_sums(matrix: Tensor) -> Tensor:
    """Row sums in float32; in a low dtype each of 64 partial sums is rounded, not their total."""
    if matrix.dtype == torch.float32:
        return matrix.sum(1)
    even = matrix.shape[1] // _PARTIAL_SUMS * _PARTIAL_SUMS
    partial = matrix[:, :even].reshape(len(matrix), _PARTIAL_SUMS, -1).sum(2)  # (N, 64)
    sums: Tensor = partial.float().sum(1) + matrix[:, even:].float().sum(1)
    return sums
