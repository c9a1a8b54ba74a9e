"""retrain.toml: its defaults, and an error that names file and field for everything that is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from training.loop.retrain import ConfigError, RetrainConfig, load_config

EXAMPLE = Path(__file__).parents[3] / "retrain.toml"


def test_the_projects_own_file_says_the_defaults() -> None:
    assert load_config(EXAMPLE) == RetrainConfig()


def test_the_projects_own_file_names_every_setting_in_its_section() -> None:
    named = {
        section: re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE)
        for section, text in re.findall(r"^\[(\w+)\]\n(.*?)(?=^\[|\Z)", EXAMPLE.read_text(), re.S | re.M)
    }
    sections: dict[str, BaseModel] = dict(RetrainConfig())
    assert named == {
        name: [info.alias or field for field, info in type(section).model_fields.items()]
        for name, section in sections.items()
    }


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.toml").touch()
    config = load_config(tmp_path / "r.toml")
    assert (config.prepare.days, config.train.model, config.gate.confidence) == (30, "auto", 0.95)
    assert (config.publish.as_, config.train.threads) == ("champion", os.cpu_count())


def test_settings_arrive(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        '[train]\nmodel = "srgnn"\nset = ["epochs=5", "dim=64"]\n[publish]\nas = "challenger"\nshare = 1\n'
    )
    config = load_config(tmp_path / "r.toml")
    recipe, hyper = config.train.resolved(["srgnn"])["srgnn"]
    assert recipe is not None
    assert (recipe.epochs, hyper["dim"]) == (5, 64)
    assert (config.publish.as_, config.publish.share) == ("challenger", 1.0)


def test_the_hash_is_of_the_settings_alone(tmp_path: Path) -> None:
    texts = ("[prepare]\ndays = 7\n[gate]\n", "# seven\n[prepare]\ndays=7", "[prepare]\ndays = 8")
    hashes = []
    for text in texts:
        (tmp_path / "r.toml").write_text(text)
        hashes.append(load_config(tmp_path / "r.toml").sha256)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[prepare]\ndays = 0", r"r\.toml: \[prepare\] days: .*greater than or equal to 1"),
        ('[prepare]\ndays = "30"', r"\[prepare\] days: .*valid integer"),
        ("[prepare]\nday = 3", r"\[prepare\] day: Extra inputs are not permitted"),
        ("[prepare]\ndays = 2\ntest_days = 2.5", r"\[prepare\]: test_days = 2\.5 leaves none of days = 2"),
        ("[prepare]\nvalidation = 1.0", r"\[prepare\] validation: .*less than 1"),
        ("[gates]\n", r"\[gates\]: Extra inputs"),
        ("[gate]\nmargin_mrr = nan", r"\[gate\] margin_mrr: .*finite"),
        ('[train]\nmodel = "gruu"', r"\[train\] model: no model 'gruu' \(did you mean gru\?\)"),
        ('[train]\nblend = ["niser"]', r"\[train\] blend: niser: a blend has two members at least"),
        ('[train]\nblend = ["niser", "niser"]', r"\[train\] blend: .*each named once"),
        (
            '[train]\nblend = ["niser", "vmis_knn"]',
            r"\[train\] blend: vmis_knn is counted: it has no vectors",
        ),
        (
            '[train]\nblend = ["niser", "nisre"]',
            r"\[train\] blend: no model 'nisre' \(did you mean niser\?\)",
        ),
        ('[train]\nstudent = "gru"', r'\[train\]: student = "gru" without blend'),
        ('[train]\nblend = ["niser", "gru"]\nstudent = "stan"', r"\[train\] student: stan is counted"),
        ('[train]\nblend = ["niser", "gru"]\nstudent = "grue"', r"\[train\].*did you mean gru\?"),
        ('[train]\nblend = ["niser", "gru"]\nstudent = "svae"', r"\[train\].*svae does not learn one next"),
        ('[train]\nmodel = "core"\nblend = ["niser", "core"]', r'\[train\]: model = "core" beside blend'),
        (
            '[train]\nblend = ["niser", "core"]\nset = ["steps=2"]',
            r"\[train\]: --set steps: (core|niser).* all .* have it",
        ),
        ("[train]\nbudget_minutes = 0.0", r"\[train\] budget_minutes: .*greater than 0"),
        ('[train]\nmodel = "stan"', r"\[train\] model: stan cannot be served; .*vmis_knn"),
        ('[train]\nset = ["rate=1"]', r"\[train\]: --set rate: gru has no such hyper-parameter"),
        ('[train]\nmodel = "vmis_knn"\nset = ["k=x"]', r"\[train\]: --set k=x: expected int"),
        ('[train]\nset = ["dim=8", 3]', r"\[train\] set\.1: .*valid string"),
        ('[publish]\nas = "shadow"', r"\[publish\] as: .*'champion' or 'challenger'"),
        ("[publish]\nkeep = 0", r"\[publish\] keep: .*greater than or equal to 1"),
        ("[data]\ncollected = false", r"\[data\]: collected = false leaves no clicks"),
        ("prepare = 3", r"\[prepare\]: .*valid dictionary"),
        ("[prepare\n", r"r\.toml: not TOML: .*line 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "r.toml")


def test_every_wrong_field_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[prepare]\ndays = 0\n[publish]\nkeep = 0\n")
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "r.toml")
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == [
        "[prepare] days",
        "[publish] keep",
    ]


def test_no_file_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "r.toml").write_bytes(b"# \xff\n")
    with pytest.raises(ConfigError, match=r"r\.toml: not TOML"):
        load_config(tmp_path / "r.toml")
