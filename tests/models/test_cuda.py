"""Every model on a GPU, where there is one: steps as on the processor, runs that are resumed, exports.

Where there is none, what a GPU would trip over is looked for without it: tensors that are made where the
model is not.
"""

from __future__ import annotations

import dataclasses
import shutil
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.base import Batch, Batching, SessionEncoder
from models.bert4rec import BERT4Rec
from models.losses import Loss, Negatives, Objective, cross_entropy, sampled_loss
from models.svae import SVAE
from service.ranking.bundle import Bundle
from tests.models.cases import CASES, Case
from tests.models.test_contract import N_ITEMS, planted, some_sessions
from training.bundling.export import export_bundle, served_session_vectors
from training.bundling.provenance import Provenance
from training.learn import checkpoint
from training.learn.batches import Examples
from training.learn.checkpoint import RunConfig
from training.learn.devices import moved, open_fabric, repeatable
from training.learn.negatives import NegativeSampler
from training.learn.optimizers import AdagradMomentum
from training.learn.train import Pace, Progress, make_optimizer, train_phase, training_examples
from training.measure.validation import rank_targets, validation_on

each_model = pytest.mark.parametrize("case", CASES, ids=str)
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
CUDA = torch.device("cuda", 0)
SESSIONS = planted(200, 0)
STEPS = 2
FACTORIES = (
    torch.arange,
    torch.as_tensor,
    torch.empty,
    torch.eye,
    torch.from_numpy,
    torch.full,
    torch.linspace,
    torch.ones,
    torch.rand,
    torch.randint,
    torch.randn,
    torch.randperm,
    torch.tensor,
    torch.zeros,
)
# Models that must ask the GPU how much there is: masked clicks, distinct neighbours, edges of the batch's
# sessions. All others run ahead of it.
ASKING = {"bert4rec", "gce_gnn", "gcn", "lightgcn", "ngcf"}
EXPORTED = {"bert4rec", "gce_gnn", "gru", "lightgcn"}  # whole, which takes a while


class MadeWhereTheModelIs(TorchFunctionMode):
    """Refuses what makes a tensor without saying on which device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        assert func not in FACTORIES or kwargs.get("device") is not None, (
            f"{getattr(func, '__name__', func)} makes a tensor on the processor, wherever the model is"
        )
        return func(*args, **kwargs)


@pytest.fixture
def exact_float32() -> Iterator[None]:
    """A GPU rounds the products of its GRUs and convolutions to 10 bits unless it is told not to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def without_chance(model: SessionEncoder) -> SessionEncoder:
    """Drops nothing, masks only last clicks, samples no latent: the same on every device."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if isinstance(model, BERT4Rec):
        model.last_only = 1.0
    if isinstance(model, SVAE):
        last = model.encoder[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias[last.out_features // 2 :] = -60  # log σ²
            last.weight[last.out_features // 2 :] = 0
    return model


def built(case: Case) -> SessionEncoder:
    torch.manual_seed(0)
    model = case.model.build(SESSIONS, **case.hyper)
    model.recipe = dataclasses.replace(model.recipe, **{"batch_size": 64, **case.recipe})
    return model


def batches(model: SessionEncoder) -> list[Batch]:
    examples, sampler = training_examples(model, SESSIONS), NegativeSampler(SESSIONS, model.recipe)
    plan = examples.plan(model.recipe.batch_size, seed=0, epoch=0)[:STEPS]
    made = [examples.batch(indices) for indices in plan]
    return [
        dataclasses.replace(batch, negatives=sampler.draw(batch.targets, 0, 0, step))
        for step, batch in enumerate(made)
    ]


def loss_of(model: SessionEncoder, batch: Batch, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if model.batching == "session-parallel":
        return model.step(batch, carried)
    return model.loss(batch), None


@each_model
def test_a_model_makes_tensors_only_where_it_is(case: Case) -> None:
    model, carried = built(case), None
    for batch in batches(model):
        batch = dataclasses.replace(batch, known_places=batch.places)
        with MadeWhereTheModelIs():
            loss, carried = loss_of(model, batch, carried)
        torch.autograd.backward(loss)
    sessions = some_sessions(4, 6)
    with MadeWhereTheModelIs():
        model.eval()
        model(sessions)
        model.item_vectors()


def test_a_tensor_made_elsewhere_is_found() -> None:
    with pytest.raises(AssertionError, match="arange makes a tensor on the processor"), MadeWhereTheModelIs():
        torch.arange(3)


@on_a_gpu
@each_model
def test_a_step_is_that_of_the_processor(case: Case, exact_float32: None) -> None:
    here, there = without_chance(built(case)), without_chance(built(case)).to(CUDA)
    carried: tuple[Tensor | None, Tensor | None] = (None, None)
    for batch in batches(here):
        expected, on_cpu = loss_of(here, batch, carried[0])
        loss, on_gpu = loss_of(there, moved(batch, CUDA), carried[1])
        carried = on_cpu, on_gpu
        torch.testing.assert_close(loss.cpu(), expected, atol=1e-5, rtol=1e-4)
        torch.autograd.backward(expected)
        torch.autograd.backward(loss)
        for (name, parameter), (_, other) in zip(
            here.named_parameters(), there.named_parameters(), strict=True
        ):
            if parameter.grad is None:
                assert other.grad is None, name
                continue
            assert other.grad is not None, name
            scale = max(float(parameter.grad.abs().max()), 1e-5)  # below is rounding alone
            difference = float((other.grad.cpu() - parameter.grad).abs().max())
            assert difference < 1e-3 * scale, (name, difference, scale)
            for each in (parameter, other):
                assert each.grad is not None
                each.data -= 0.1 * each.grad
                each.grad = None
    sessions = some_sessions(5, 6)
    here.eval()
    there.eval()
    torch.testing.assert_close(there(sessions.to(CUDA)).cpu(), here(sessions), atol=1e-4, rtol=1e-3)


@on_a_gpu
@each_model
def test_a_step_does_not_wait_for_the_gpu(case: Case) -> None:
    if case.name in ASKING:
        pytest.skip("it has to ask")
    model = built(case).to(CUDA)
    optimizer, carried = make_optimizer(model, model.recipe), None
    ready = [moved(batch, CUDA) for batch in batches(model)]
    with repeatable(CUDA):
        for number, batch in enumerate([*ready, *ready]):
            if number == len(ready):  # the steps before made what is kept between steps
                torch.cuda.set_sync_debug_mode("error")
            try:
                loss, carried = loss_of(model, batch, carried)
                torch.autograd.backward(loss)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            finally:
                torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
@pytest.mark.parametrize("loss", typing.get_args(Loss))
@pytest.mark.parametrize("normalise", [False, True])
def test_losses_are_those_of_the_processor(loss: Loss, normalise: bool) -> None:
    torch.manual_seed(0)
    vectors, items = torch.randn(17, 8), torch.randn(300, 8)
    bias = None if normalise else torch.randn(300)
    targets, sample = torch.randint(300, (17,)), torch.randint(300, (40,))

    def value(device: torch.device) -> list[Tensor]:
        v, i = (part.to(device).requires_grad_() for part in (vectors, items))
        b = None if bias is None else bias.to(device)
        if loss == "ce":
            found = cross_entropy(v, i, targets.to(device), bias=b, normalise=normalise)
        else:
            negatives = Negatives(sample.to(device), torch.zeros(40, device=device), 299)
            found = sampled_loss(
                Objective(loss),
                v,
                i.__getitem__,
                targets.to(device),
                negatives,
                bias=None if b is None else b.__getitem__,
                normalise=normalise,
            )
        return [part.cpu() for part in (found.detach(), *torch.autograd.grad(found, [v, i]))]

    for here, there in zip(value(torch.device("cpu")), value(CUDA), strict=True):
        torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-4)


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_softmax_over_many_items(dtype: torch.dtype) -> None:
    """Of several targets a vector, and with scores that would overflow."""
    torch.manual_seed(0)
    size = 30 if dtype == torch.float32 else 0.3  # a large score in bfloat16 is whole units wide
    vectors, items = size * torch.randn(64, 16), torch.randn(5000, 16)
    targets = torch.randint(5000, (64, 2))
    targets[3, 1] = -1

    def value(device: torch.device) -> list[Tensor]:
        v, i = (part.to(device).requires_grad_() for part in (vectors, items))
        found = cross_entropy(v, i, targets.to(device), dtype=dtype)
        return [part.cpu() for part in (found.detach(), *torch.autograd.grad(found, [v, i]))]

    for here, there in zip(value(torch.device("cpu")), value(CUDA), strict=True):
        scale = float(here.abs().max())
        tolerance = 1e-3 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(there / scale, here / scale, atol=tolerance, rtol=0)


@on_a_gpu
@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_optimisers_move_weights_as_on_the_processor(kind: str) -> None:
    def weights(device: torch.device) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        weight = nn.Parameter(torch.randn(50, 4, generator=generator).to(device))
        optimizer = (
            AdagradMomentum([weight], 0.1, 0.3, 0.01)
            if kind == "adagrad"
            else torch.optim.Adam([weight], lr=0.1, weight_decay=0.01, fused=True)
        )
        for _ in range(5):
            weight.grad = torch.randn(50, 4, generator=generator).to(device)
            optimizer.step()
        return weight.detach().cpu()

    torch.testing.assert_close(weights(CUDA), weights(torch.device("cpu")), atol=1e-5, rtol=1e-4)


def train(case: Case, file: Path, fabric: Fabric, *, keep: Path | None = None) -> SessionEncoder:
    """Two epochs; `keep` gets the checkpoint of the middle of the first one, else the run goes on from it."""
    recipe = dataclasses.replace(
        case.model.recipe, **{"epochs": 2, "batch_size": 64, "lr": case.lr, "patience": 9, **case.recipe}
    )
    reports = 0

    def report(progress: Progress) -> None:
        nonlocal reports
        reports += 1
        if reports == 3 and keep is not None:
            shutil.copy(file, keep)

    return train_phase(
        RunConfig(case.name, "planted", 1, "32", 1, recipe, case.hyper, None, fabric.device.type),
        case.model,
        SESSIONS,
        validation_on(planted(30, 1)),
        phase="select",
        file=file,
        resume=keep is None,
        on_progress=report,
        on_epoch=lambda record: None,
        pace=Pace(report_steps=2, checkpoint_seconds=0),
        fabric=fabric,
    ).model


@on_a_gpu
@each_model
def test_a_run_on_a_gpu_is_resumed_to_the_same_weights(case: Case, tmp_path: Path) -> None:
    fabric = open_fabric("cuda")
    whole = train(case, tmp_path / "whole.pt", fabric, keep=tmp_path / "half.pt")
    assert checkpoint.load(tmp_path / "half.pt")["state"]["step"] > 0
    resumed = train(case, tmp_path / "half.pt", fabric)
    for name, weight in whole.state_dict().items():
        assert weight.device.type == "cpu"
        assert torch.equal(weight, resumed.state_dict()[name]), name


@on_a_gpu
@each_model
def test_what_was_trained_on_a_gpu_is_exported_as_on_the_processor(case: Case, tmp_path: Path) -> None:
    trained = train(case, tmp_path / "run.pt", open_fabric("cuda"), keep=tmp_path / "half.pt")
    same = case.model.build(SESSIONS, **case.hyper)
    same.load_state_dict(trained.state_dict())
    same.eval()
    sample = [row[row > 0].tolist() for row in some_sessions(64, 9, seed=4)]
    vectors = served_session_vectors(trained, sample)
    assert (vectors == served_session_vectors(same, sample)).all()
    if case.name not in EXPORTED:
        return
    path = export_bundle(
        trained,
        [f"sku-{i}" for i in range(N_ITEMS)],
        sample,
        Provenance(case.name, 1, case.hyper, "commit", "data"),
        tmp_path,
        "v1",
        lambda bundle: {"a": 1.0},
    )
    assert Bundle.load(path).manifest.version == "v1"


@on_a_gpu
@each_model
def test_validation_ranks_as_on_the_processor(case: Case, exact_float32: None) -> None:
    model, held_out = built(case), planted(60, 3)
    batching: Batching = "positions" if model.causal else "prefixes"
    examples = Examples.of(held_out, batching, model.max_length)
    here = rank_targets(model, examples)
    there = rank_targets(model.to(CUDA), examples)
    assert (here == there).mean() > 0.98  # where two scores are all but equal, either may be higher


@on_a_gpu
def test_nothing_of_what_makes_a_gpu_repeatable_stays_on() -> None:
    with repeatable(CUDA):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
