"""What every model must keep: the same suite for each row of `cases.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from models.base import PAD, Recipe, SessionEncoder
from models.sessions import Sessions
from service.ranking.bundle import Bundle
from tests.models.cases import CASES, Case
from training.bundling.export import export_bundle
from training.bundling.provenance import Provenance
from training.learn.batches import Examples
from training.learn.checkpoint import RunConfig
from training.learn.hyper import HyperError, published_settings, resolve
from training.learn.negatives import NegativeSampler
from training.learn.registry import find_model, model_names
from training.learn.train import train_phase, training_examples
from training.measure.metrics import mrr_at_k
from training.measure.validation import rank_targets, validation_on

N_ITEMS = 40
each_model = pytest.mark.parametrize("case", CASES, ids=str)


def planted(n_sessions: int, seed: int) -> Sessions:
    """Sessions of two readers: one steps on by 1, the other by 7. The first two clicks tell which."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 8, n_sessions)
    step = rng.choice([1, 7], n_sessions)
    start = rng.integers(0, N_ITEMS, n_sessions)
    walks = [(start[s] + step[s] * np.arange(lengths[s])) % N_ITEMS + 1 for s in range(n_sessions)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sessions(np.concatenate(walks).astype(np.int32), offsets, N_ITEMS)


def some_sessions(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random right-padded sessions with repeats and self-loops, each at least one click long."""
    rng = np.random.default_rng(seed)
    sessions = rng.integers(1, 1 + N_ITEMS // 4, (batch, length))
    lengths = rng.integers(1, length + 1, batch)
    lengths[0] = length
    return torch.from_numpy(np.where(np.arange(length) < lengths[:, None], sessions, PAD))


def test_every_model_has_a_row() -> None:
    assert {case.name for case in CASES} == set(model_names())


@each_model
def test_shapes(case: Case) -> None:
    model = case.model.build(planted(20, 0), **case.hyper).eval()
    vectors = model(some_sessions(5, 6))
    items = model.item_vectors()
    assert vectors.shape == (5, items.shape[1])
    assert items.shape[0] == N_ITEMS + 1
    bias = model.item_bias()
    assert bias is None or bias.shape == (N_ITEMS + 1,)
    if model.head == "niser":
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    assert model.causal == (type(model).forward_all is not SessionEncoder.forward_all)


@each_model
def test_eval_mode_adds_nothing_to_what_a_checkpoint_holds(case: Case) -> None:
    model = case.model.build(planted(20, 0), **case.hyper)
    held = model.state_dict().keys()
    model.eval()
    assert model.state_dict().keys() == held


@each_model
def test_padding_and_other_rows_change_nothing(case: Case) -> None:
    model = case.model.build(planted(20, 0), **case.hyper).eval()
    sessions = some_sessions(6, 7)
    together = model(torch.nn.functional.pad(sessions, (0, 5)))
    for row, vector in zip(sessions, together, strict=True):
        alone = model(row[row > PAD][None])
        torch.testing.assert_close(alone[0], vector, atol=1e-5, rtol=1e-5)


@each_model
def test_every_position_equals_its_prefix(case: Case) -> None:
    model = case.model.build(planted(20, 0), **case.hyper).eval()
    if not model.causal:
        pytest.skip("not causal: it has no vector for every position")
    sessions = some_sessions(4, 6)
    every = model.forward_all(sessions)
    for length in range(1, 7):
        long_enough = sessions[:, length - 1] > PAD
        prefix = model(sessions[long_enough, :length])
        torch.testing.assert_close(every[long_enough, length - 1], prefix, atol=1e-5, rtol=1e-5)


@each_model
def test_every_item_starts_from_a_short_row(case: Case) -> None:
    """Adam moves a row by about its rate a step, and rare items have few: a long one stays noise."""
    torch.manual_seed(0)
    modules = case.model.build(planted(20, 0), **case.hyper).named_modules()
    tables = {name: each for name, each in modules if isinstance(each, torch.nn.Embedding)}
    of_items = {
        name: each for name, each in tables.items() if each.num_embeddings in (N_ITEMS + 1, N_ITEMS + 2)
    }
    assert of_items  # BERT4Rec has a [MASK] beside
    for name, table in of_items.items():
        assert table.weight[1:].norm(dim=1).mean().item() < 2, name


@each_model
def test_gradients_are_finite_and_reach_every_parameter(case: Case) -> None:
    torch.manual_seed(0)
    sessions = planted(50, 0)
    model = case.model.build(sessions, **case.hyper)
    model.recipe = dataclasses.replace(model.recipe, **{"batch_size": 10**6, **case.recipe})
    examples, sampler = training_examples(model, sessions), NegativeSampler(sessions, model.recipe)
    state = None
    for indices in examples.plan(model.recipe.batch_size, seed=0, epoch=0)[:2]:
        batch = examples.batch(indices)
        batch = dataclasses.replace(batch, negatives=sampler.draw(batch.targets, 0, 0, 0))
        if model.batching == "session-parallel":  # only the second step has a state to learn from
            loss, state = model.step(batch, state)
        else:
            loss = model.loss(batch)
        torch.autograd.backward(loss)
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in learned.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("case", [case for case in CASES if case.model.mixed_precision], ids=str)
def test_low_precision_changes_the_vectors_little(case: Case) -> None:
    torch.manual_seed(0)
    sessions = planted(50, 0)
    model = case.model.build(sessions, **case.hyper).eval()
    batch = Examples.of(sessions, model.batching, model.max_length).batch(np.arange(64))
    with torch.no_grad():
        exact, _ = model.pairs(batch)
        model.softmax_dtype = torch.bfloat16
        low, _ = model.pairs(batch)
    assert low.dtype == torch.float32
    assert not torch.equal(low, exact), "nothing ran in bfloat16"
    assert float((low - exact).norm() / exact.norm()) < 0.02


@each_model
def test_learns_a_planted_pattern(case: Case, tmp_path: Path) -> None:
    train, held_out = planted(600, 1), planted(100, 2)
    schedule = {"epochs": 12, "batch_size": 64, "lr": case.lr, "lr_step": 6, "lr_gamma": 0.2, "patience": 12}
    recipe = dataclasses.replace(case.model.recipe, **{**schedule, **case.recipe})
    config = RunConfig(case.name, "planted", 1, "32", 1, recipe, case.hyper)
    trained = train_phase(
        config,
        case.model,
        train,
        validation_on(held_out),
        phase="select",
        file=tmp_path / "select.pt",
        resume=False,
        on_progress=lambda progress: None,
        on_epoch=lambda record: None,
    )
    # Only a session's second click is a coin toss; everything after it is certain.
    ranks = rank_targets(trained.model, Examples.of(held_out, "prefixes", trained.model.max_length))
    tosses = len(held_out)
    best = (tosses * 0.75 + (len(ranks) - tosses)) / len(ranks)
    assert mrr_at_k(ranks, 20) > case.learns * best


@each_model
def test_bundle_answers_as_the_model_does(case: Case, tmp_path: Path) -> None:
    """`export_bundle` checks parity itself, at B in {1, 5}, L in {1, 2, max}, and after a larger batch."""
    torch.manual_seed(3)
    model = case.model.build(planted(20, 0), **case.hyper)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # a trained model is not at its initial scale
    sample = [row[row > PAD].tolist() for row in some_sessions(64, 9, seed=4)]
    provenance = Provenance(case.name, 1, case.hyper, "commit", "data")
    path = export_bundle(
        model,
        [f"sku-{i}" for i in range(N_ITEMS)],
        sample,
        provenance,
        tmp_path,
        "v1",
        lambda bundle: {"a": 1.0},
    )
    bundle = Bundle.load(path)
    session = sample[0]
    scores = model(torch.tensor([session]))[0] @ scored_items(model).T
    if (bias := model.item_bias()) is not None:
        scores = scores + bias
    expected = scores[1:].argsort(descending=True)[:5] + 1
    _, items = bundle.retriever.search(bundle.encoder.encode([session]), 5)
    assert items[0].tolist() == expected.tolist()
    assert bundle.manifest.index is not None
    assert bundle.manifest.index.recall_at_20 == 1.0


def scored_items(model: SessionEncoder) -> torch.Tensor:
    items = model.item_vectors()
    return torch.nn.functional.normalize(items, dim=1) if model.head == "niser" else items


PUBLISHED = [(name, which) for name in model_names() for which in published_settings(find_model(name))]
SAID = {"epochs", "patience", "batch_size", "optimizer", "lr", "lr_gamma", "loss"}


@pytest.mark.parametrize(("name", "which"), PUBLISHED)
def test_what_a_paper_says_leaves_nothing_of_ours(name: str, which: str) -> None:
    """It names every hyper-parameter, and the recipe begins from what no model has changed."""
    model = find_model(name)
    values = published_settings(model)[which]
    assert model.hyperparameters().keys() | SAID <= values.keys()
    recipe, hyper = resolve(model, [], which)
    for field in dataclasses.fields(Recipe):
        assert getattr(recipe, field.name) == values.get(field.name, getattr(Recipe(), field.name)), (
            field.name
        )
    assert hyper == {each: values[each] for each in model.hyperparameters()}
    assert recipe.lr_gamma == 1 or "lr_step" in values, "a rate that falls does so at steps of the paper's"
    if recipe.loss != "ce":
        assert {"negatives", "in_batch"} <= values.keys()
    assert resolve(model, ["lr=0.5"], which)[0].lr == 0.5, "--set goes on top"


@pytest.mark.parametrize(("name", "which"), PUBLISHED)
def test_trains_as_published(name: str, which: str, tmp_path: Path) -> None:
    """One epoch of the planted pattern."""
    recipe, hyper = resolve(find_model(name), ["epochs=1"], which)
    trained = train_phase(
        RunConfig(name, "planted", 1, "32", 1, recipe, hyper),
        find_model(name),
        planted(120, 1),
        validation_on(planted(30, 2)),
        phase="select",
        file=tmp_path / "select.pt",
        resume=False,
        on_progress=lambda progress: None,
        on_epoch=lambda record: None,
    )
    assert np.isfinite(trained.history[0]["loss"])


def test_an_unknown_paper_lists_the_known() -> None:
    with pytest.raises(HyperError, match=r"--paper-of 2015: of gru4rec there is: paper, 2016, "):
        resolve(find_model("gru4rec"), [], "2015")
    with pytest.raises(HyperError, match="of gru there is: nothing"):
        resolve(find_model("gru"), [], "paper")
