"""A sampled loss moves the rows that a step looks up, at a cost that the catalogue does not change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from models.base import Batch, Hyper, Recipe, SessionEncoder
from models.bprmf import BPRMF
from models.gru4rec import GRU4Rec
from models.interactions import InteractionEncoder
from models.lightgcn import LightGCN
from models.losses import Loss
from models.sessions import Sessions
from tests.models.cases import CASES, Case
from tests.training.planted import planted_sessions
from training.learn.negatives import NegativeSampler
from training.learn.optimizers import AdagradMomentum, RowWiseAdam
from training.learn.train import Progress, make_optimizer, sparse_rows, training_examples
from training.learn.warm_start import probe

SESSIONS = planted_sessions(40)
SAMPLED = dataclasses.replace(Recipe(), loss="sampled-ce", negatives=5, batch_size=24)
by_rows = pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])


def gradient_of(rows: dict[int, list[float]], size: int, *, sparse: bool) -> torch.Tensor:
    """A table's gradient; each row comes twice, as half of it, as one does that was looked up twice."""
    index = torch.tensor([*rows, *rows])
    values = torch.tensor([*rows.values(), *rows.values()], dtype=torch.float64) / 2
    found = torch.sparse_coo_tensor(index[None], values, (size, values.shape[1]), check_invariants=True)
    return found if sparse else found.to_dense()


@by_rows
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_torchs_where_every_row_is_touched(decay: float, sparse: bool) -> None:
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.float64)
    ours, theirs, beside = (nn.Parameter(start.clone()) for _ in range(3))
    row_wise = RowWiseAdam([ours, beside], 0.01, decay, tables=[ours])
    plain = torch.optim.Adam([theirs], 0.01, weight_decay=decay)
    for _ in range(5):
        gradient = torch.randn(4, 3, dtype=torch.float64)
        theirs.grad, beside.grad = gradient, gradient.clone()  # what is no table goes torch's own way
        ours.grad = gradient_of(dict(enumerate(gradient.tolist())), 4, sparse=sparse)
        row_wise.step()
        plain.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(beside, theirs, rtol=1e-12, atol=0)


@by_rows
@pytest.mark.parametrize("optimizer", [RowWiseAdam, AdagradMomentum])
def test_rows_that_a_step_does_not_touch_stay_bit_for_bit(
    optimizer: type[RowWiseAdam | AdagradMomentum], sparse: bool
) -> None:
    """And so does what is kept of them, with momentum and weight decay as well; a row of zeros is none."""
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(5, 2, dtype=torch.float64))
    settings = {"momentum": 0.5} if optimizer is AdagradMomentum else {}
    rows = optimizer([table], 0.1, weight_decay=0.1, tables=[table], **settings)
    table.grad = gradient_of({1: [1.0, -2.0], 2: [0.5, 0.0], 4: [0.3, 1.0]}, 5, sparse=sparse)
    rows.step()
    before, state = table.detach().clone(), {k: v.clone() for k, v in rows.state[table].items() if v.dim()}
    table.grad = gradient_of({2: [1.0, 1.0], 4: [0.0, 0.0]}, 5, sparse=sparse)
    rows.step()
    others = [0, 1, 3, 4]
    assert torch.equal(table[others], before[others])
    assert (table[2] != before[2]).all()
    assert len(state) == 2
    for name, kept in state.items():
        assert torch.equal(rows.state[table][name][others], kept[others]), name
        assert (rows.state[table][name][2] != kept[2]).all(), name


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_sparse_gradients_move_a_model_as_dense_ones_do(kind: Literal["adam", "adagrad"]) -> None:
    """Tied table, bias, repeated items: after several steps every weight is the same."""
    recipe = dataclasses.replace(SAMPLED, optimizer=kind, momentum=0.5, weight_decay=0.01, lr=0.05)
    hyper: dict[str, Hyper] = {"dim": 6, "dropout_embedding": 0.0, "batching": "positions"}
    sparse, dense = (trained(GRU4Rec, recipe, hyper, sparse=each)[0] for each in (True, False))
    for name, weight in dense.state_dict().items():
        torch.testing.assert_close(sparse.state_dict()[name], weight, atol=1e-6, rtol=1e-5, msg=name)


def trained(
    model_class: type[SessionEncoder], recipe: Recipe, hyper: dict[str, Hyper], *, sparse: bool
) -> tuple[SessionEncoder, dict[str, torch.Tensor]]:
    """A model after a few steps, and its last gradients."""
    torch.manual_seed(0)
    model = model_class.build(SESSIONS, **hyper)
    model.recipe = recipe
    model.set_sparse_rows(sparse)
    optimizer = make_optimizer(model, recipe)
    examples, sampler, state = training_examples(model, SESSIONS), NegativeSampler(SESSIONS, recipe), None
    gradients: dict[str, torch.Tensor] = {}
    for step, indices in enumerate(examples.plan(recipe.batch_size, 0, 0)[:4]):
        batch = examples.batch(indices)
        batch = dataclasses.replace(batch, negatives=sampler.draw(batch.targets, 0, 0, step))
        loss, state = step_of(model, batch, state)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    return model, gradients


def step_of(
    model: SessionEncoder, batch: Batch, state: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if model.batching == "session-parallel":
        return model.step(batch, state)
    return model.loss(batch), None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_gradient_of_any_model_is_as_large_as_its_catalogue(case: Case) -> None:
    """Under a sampled loss, but for those of interactions: see the next test."""
    recipe = dataclasses.replace(SAMPLED, **{**case.recipe, "batch_size": 4})
    if recipe.loss == "ce":
        recipe = dataclasses.replace(recipe, loss="sampled-ce", negatives=5)
    model = case.model.build(SESSIONS, **case.hyper)
    wanted = sparse_rows(model, recipe, processes=1)
    assert wanted is (model.batching != "interactions")
    if not wanted:
        return
    _, gradients = trained(case.model, recipe, case.hyper, sparse=True)
    rows = probe(case.name, case.hyper)[1]
    assert rows["items.weight"] == "items"
    dense = {name for name, of in rows.items() if of != "own" and not gradients[name].is_sparse}
    assert dense == set()


@pytest.mark.parametrize("model_class", [BPRMF, LightGCN])
def test_a_session_that_is_a_user_goes_on_between_its_steps(model_class: type[InteractionEncoder]) -> None:
    """As the momentum of Adam takes it: an epoch has a few steps of its own."""
    torch.manual_seed(0)
    model = model_class.build(SESSIONS)
    assert not sparse_rows(model, model.recipe, processes=1)
    optimizer, users = make_optimizer(model, model.recipe), model.sessions.weight
    users.grad = torch.zeros_like(users)
    users.grad[1] = 1.0
    optimizer.step()
    before = users.detach().clone()
    users.grad.zero_()
    optimizer.step()
    moved = (users != before).any(1)
    assert moved[1]
    assert moved.sum() == 1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vectors_of_some_items_are_rows_of_all(case: Case) -> None:
    model = case.model.build(SESSIONS, **case.hyper).eval()
    some = torch.tensor([3, 1, 3, SESSIONS.n_items])
    torch.testing.assert_close(model.vectors_of(some), model.item_vectors()[some])


def test_the_full_softmax_moves_every_row_as_before() -> None:
    model = GRU4Rec(9, dim=4)
    assert type(make_optimizer(model, Recipe())) is torch.optim.Adam
    assert not sparse_rows(model, Recipe(), processes=1)
    assert not sparse_rows(model, SAMPLED, processes=2), "gradients of several processes are summed dense"


@pytest.mark.parametrize("loss", ["sampled-ce", "bpr-max"])
def test_items_that_no_session_holds_keep_their_vectors(tmp_path: Path, loss: Loss) -> None:
    """Trained as `train` does: popular negatives, in a catalogue of which half is never clicked."""
    from tests.training.learn.test_train import CONFIG, VALIDATE
    from training.learn.train import train_phase

    wide = Sessions(SESSIONS.items, SESSIONS.offsets, 60)
    recipe = dataclasses.replace(SAMPLED, loss=loss, negatives_power=1.0, epochs=1, lr=0.01, weight_decay=0.1)
    config = dataclasses.replace(CONFIG, recipe=recipe, hyper={"dim": 8})
    started: list[torch.Tensor] = []
    done = train_phase(
        config,
        GRU4Rec,
        wide,
        VALIDATE,
        phase="select",
        file=tmp_path / "select.pt",
        resume=False,
        on_progress=lambda progress: None,
        on_epoch=lambda record: None,
        initial=lambda model: started.append(model.get_parameter("items.weight").detach().clone()),
    )
    weights = done.model.get_parameter("items.weight")
    clicked = np.unique(SESSIONS.items)
    never = np.setdiff1d(np.arange(61), clicked)
    assert torch.equal(weights[never], started[0][never])
    assert (weights[clicked] != started[0][clicked]).any(1).all()
    assert not any(each.sparse for each in done.model.modules() if isinstance(each, nn.Embedding))


def test_a_run_of_adam_by_rows_is_resumed_in_mid_epoch(tmp_path: Path) -> None:
    from tests.training.learn.test_train import CONFIG, OFTEN, run

    recipe = dataclasses.replace(SAMPLED, epochs=1, lr=0.01, batch_size=64)
    config = dataclasses.replace(CONFIG, recipe=recipe, hyper={"dim": 8, "head": "native"})
    whole = run(tmp_path / "whole.pt", config=config)
    shown: list[int] = []

    def interrupt(progress: Progress) -> None:
        shown.append(progress.step)
        if len(shown) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.pt", config=config, on_progress=interrupt, pace=OFTEN)
    assert 0 < shown[-1] < 13
    resumed = run(tmp_path / "cut.pt", config=config, resume=True)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
