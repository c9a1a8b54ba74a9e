"""`python -m training models`: what it tells of each model is so."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from models.sessions import Sessions
from tests.training.planted import N_ITEMS, planted_sessions
from training.__main__ import app
from training.learn.cards import all_cards, card
from training.learn.hyper import resolve, resolve_counted
from training.learn.registry import baseline_names, find_model, model_names


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["models", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def sessions() -> Sessions:
    return planted_sessions(20)


@pytest.mark.parametrize("name", model_names())
def test_a_card_tells_of_the_model_that_would_be_trained(name: str, sessions: Sessions) -> None:
    built = find_model(name).build(sessions[:1])
    told = card(name, N_ITEMS)
    assert told.parameters == sum(parameter.numel() for parameter in built.parameters())
    assert (told.family, told.head, told.causal) == (built.family, built.head, built.causal)


def test_a_paper_is_the_first_sentence_of_the_docstring() -> None:
    told = card("niser", N_ITEMS)
    assert told.title == "NISER+"
    assert told.paper.startswith("Gupta et al., NISER: Normalized Item")
    assert told.paper.endswith("Popularity Bias, 2019")
    assert told.cited == "Gupta et al. 2019"


def test_a_catalogue_of_any_size_takes_no_memory() -> None:
    assert card("gru", 10**9).parameters > 10**11


def test_nothing_is_drawn_for_a_card() -> None:
    script = """
import sys
from training.learn.cards import all_cards

all_cards(1000)
# PyTorch's compiler, most of what it takes to begin: its draws on "meta" are what imports it.
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_model_is_listed() -> None:
    header, *lines = run("--n-items", "1000").splitlines()
    assert header.split() == ["model", "paper", "family", "parameters", "head", "causal"]
    assert [line.split()[0] for line in lines] == [*baseline_names(), *model_names()]
    for line, told in zip(lines, all_cards(1000), strict=True):
        assert told.cited in line
        assert told.family in line
        assert (f"{told.parameters:,}" if told.head else "–") in line
    document = json.loads(run("--n-items", "1000", "--json"))
    assert {each["name"]: each["parameters"] for each in document["models"]} == {
        told.name: told.parameters for told in all_cards(1000)
    }


@pytest.mark.parametrize("name", [*baseline_names(), *model_names()])
def test_one_model_is_told_with_all_that_can_be_set(name: str) -> None:
    text = run(name)
    document = json.loads(run(name, "--json"))
    assert text.startswith(document["docstring"])
    assert " ".join(document["docstring"].split()).startswith(f"{document['title']}: {document['paper']}")
    settings = document["recipe"] | document["hyperparameters"]
    assert bool(document["published"]) == (name not in ("pop", "spop", "gru"))
    told = shown(text, document["docstring"])
    assert set(told[""]) == set(settings)
    for column, which in enumerate([None, *document["published"]]):
        whose = told[""] if column < 2 else {**told[""], **told[str(which)]}
        taken = [
            f"{setting}={values[min(column, len(values) - 1)]}" for setting, values in whose.items()
        ]  # of a named one the paper's, but for what it changes
        if name in baseline_names():
            assert resolve_counted(name, taken) == resolve_counted(name, [], which)
        else:
            found = resolve(find_model(name), taken)
            assert found == resolve(find_model(name), [], which), "what is printed is what --set takes"


def shown(text: str, docstring: str) -> dict[str, dict[str, list[str]]]:
    """What is printed of each setting: here and in the paper (""), and what else was published changes."""
    told: dict[str, dict[str, list[str]]] = {"": {}}
    which = ""
    for line in text.removeprefix(docstring).splitlines():
        if line.startswith("--paper-of "):
            which = line.split()[1].rstrip(":")
            told[which] = {}
        elif line[:2] == "  ":
            setting, _, values = line.strip().partition("=" if which else " ")
            told[which][setting] = values.split(" / ") if not which else [values]
            told[which][setting] = [value.strip() for value in told[which][setting]]
    return told


@pytest.mark.parametrize("name", [name for name in model_names() if name != "gru"])
def test_here_and_the_paper_stand_beside_each_other(name: str) -> None:
    """Whatever the two differ in, a reader sees both."""
    document = json.loads(run(name, "--json"))
    told = shown(run(name), document["docstring"])[""]
    here = document["recipe"] | document["hyperparameters"]
    paper = document["published"]["paper"]["recipe"] | document["published"]["paper"]["hyperparameters"]
    assert here.keys() == paper.keys() == told.keys()
    for setting in here:
        ours, theirs = told[setting]
        assert (ours != theirs) == (here[setting] != paper[setting]), setting


def test_an_unknown_model_is_wrong_input() -> None:
    result = CliRunner().invoke(app, ["models", "nisr"])
    assert result.exit_code == 2
    assert "did you mean niser?" in result.output
