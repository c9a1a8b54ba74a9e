"""`nextclick try` as it is typed: from a log to a report in three forms, and to commands that go on."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.live.deployment import read_deployment
from training.__main__ import app
from training.data.dataset import Dataset
from training.data.demo_store import write_demo_store

EVIL = "<script>alert('x')</script>&"
NAME = "<b>shop & co.csv"
OPTIONS = ["--item-column", "item_id<i>", "--min-item-support", "3", "--validation", "20%"]


@dataclass
class Clock:
    """Seconds that pass by being looked at; the `end`-th look is a Ctrl-C."""

    step: float = 1.0
    end: int | None = None
    looks: int = 0

    def __call__(self) -> float:
        self.looks += 1
        if self.looks == self.end:
            raise KeyboardInterrupt
        return self.looks * self.step


def run(*arguments: str, clock: Callable[[], float] | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), obj=clock or Clock())


def write_log(file: Path, sessions: int = 1500) -> None:
    """A demo log whose first item, and the name of the column of items, are markup."""
    write_demo_store(file, sessions=sessions, days=30, seed=3)
    header, *rows = file.read_text().splitlines()
    columns = header.replace('"', "").split(",")
    place = columns.index("item_id")
    columns[place] = "item_id<i>"
    named: dict[str, str] = {}
    lines = [",".join(columns)]
    for row in rows:
        cells = row.split(",")
        cells[place] = named.setdefault(cells[place], cells[place] if named else EVIL)
        lines.append(",".join(cells))
    file.write_text("\n".join(lines) + "\n")


@dataclass
class Tried:
    place: Path
    text: str
    told: dict[str, object]
    html: str


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    """A trial in its own current directory; GRU has time for a few epochs."""
    place = tmp_path_factory.mktemp("shop")
    with contextlib.chdir(place):
        write_log(Path(NAME))
        arguments = ["try", NAME, *OPTIONS, "--models", "pop,spop,vmis_knn", "--models", "gru"]
        result = run(*arguments, "--threads", "1", "--budget-minutes", "1.1", "--output", "out")
        assert result.exit_code == 0, result.output
        report = json.loads(Path("out/report.json").read_text())
        yield Tried(place, result.stdout, report, Path("out/report.html").read_text())


def models(tried: Tried) -> list[dict[str, object]]:
    found = tried.told["models"]
    assert isinstance(found, list)
    return found


def test_text_json_and_page_tell_the_same_figures(tried: Tried) -> None:
    assert [of["model"] for of in models(tried)] == ["pop", "spop", "vmis_knn", "gru"]
    for of in models(tried):
        for metric in ("recall", "mrr"):
            figure = of[metric]
            assert isinstance(figure, dict)
            assert figure["low"] <= figure["value"] <= figure["high"]
            assert f"{figure['value']:.2f} ({figure['low']:.1f}-{figure['high']:.1f})" in tried.text
            assert f"{figure['value']:.2f} <small>{figure['low']:.2f}–{figure['high']:.2f}" in tried.html
        for which in ("by_length", "by_novelty"):
            parts = of[which]
            assert isinstance(parts, dict)
            for part in parts.values():
                told = f"{part['recall']:.1f} / {part['mrr']:.1f}"
                assert told in tried.text
                assert told in tried.html
    commands = tried.told["commands"]
    assert isinstance(commands, list)
    assert len(commands) == 3
    assert all(command in tried.text for command in commands)


def test_the_parts_make_the_whole(tried: Tried) -> None:
    split = tried.told["split"]
    assert isinstance(split, dict)
    for of in models(tried):
        for which in ("by_length", "by_novelty"):
            parts = of[which]
            assert isinstance(parts, dict)
            assert sum(part["cases"] for part in parts.values()) == split["test_cases"]
            hits = sum(part["cases"] * part["recall"] for part in parts.values())
            recall = of["recall"]
            assert isinstance(recall, dict)
            assert hits / split["test_cases"] == pytest.approx(recall["value"])


def test_evaluate_gives_the_same_figures(tried: Tried) -> None:
    servable = [of for of in models(tried) if of["bundle"]]
    assert [of["model"] for of in servable] == ["vmis_knn", "gru"]
    for of in servable:
        bundle = f"out/bundles/{of['bundle']}"
        measured = json.loads(run("evaluate", "--bundle", bundle, "--data", "out/data", "--json").stdout)
        for metric in ("recall", "mrr"):
            figure = of[metric]
            assert isinstance(figure, dict)
            assert measured["metrics"][f"{metric}@20"] == pytest.approx(figure["value"])


def test_a_short_test_takes_more_days(tried: Tried) -> None:
    """A day of this log has some 40 sessions: the last seven, no more, and prepare is told the same."""
    assert tried.told["test_days"] == 7
    commands = tried.told["commands"]
    assert isinstance(commands, list)
    assert "--test-days 7" in commands[0]
    assert "the last 7 day(s)" in tried.text
    assert "the last 7 days" in tried.html


def test_the_clock_stopped_what_was_trained(tried: Tried) -> None:
    trained = models(tried)[-1]
    assert trained["stopped"]
    assert any("GRU was stopped by the clock" in note for note in tried.told["notes"])  # type: ignore[attr-defined]


class Text(HTMLParser):
    """The tags of a page, and what it loads or links."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [str(value) for name, value in attributes if name in ("src", "href", "xlink:href")]
        assert not any(name.startswith("on") for name, _ in attributes)


def test_the_page_needs_nothing_and_trusts_nothing(tried: Tried) -> None:
    parser = Text()
    parser.feed(tried.html)
    assert not parser.tags & {"script", "link", "img", "iframe", "i"}
    assert parser.links == []
    assert not re.search(r"url\(|@import|https?:", tried.html)
    assert "&lt;b&gt;shop &amp; co.csv" in tried.html
    assert "<b>shop" not in tried.html
    assert "item_id<i>" not in tried.html


def test_what_is_advised_can_be_typed(tried: Tried) -> None:
    commands = tried.told["commands"]
    assert isinstance(commands, list)
    prepare, train, serve = (shlex.split(command)[1:] for command in commands)
    assert prepare[:3] == ["prepare", "--input", NAME]
    assert serve == ["serve"]
    quick = ["--set", "epochs=1"] if train[train.index("--model") + 1] == "gru" else []
    for words in (prepare, [*train, *quick]):
        done = run(*words)
        assert done.exit_code == 0, done.output
    place = prepare[prepare.index("--output") + 1]
    assert Dataset.load(Path(place)).info.fingerprint == Dataset.load(Path("out/data")).info.fingerprint
    champion = read_deployment(Path("artifacts")).champion
    assert champion is not None
    assert champion.startswith(str(tried.told["advised"]))


def test_json_is_all_that_stdout_gets(tried: Tried, tmp_path: Path) -> None:
    output = tmp_path / "deep/out"
    arguments = ["try", NAME, *OPTIONS, "--models", "vmis_knn", "--output", str(output), "--json"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((output / "report.json").read_text())
    assert json.loads(result.stdout)["models"][0]["recall"] == models(tried)[2]["recall"]
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "--force replaces it" in refused.output
    assert run(*arguments, "--force").exit_code == 0
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_what_is_no_trial_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    write_log(tmp_path / "clicks.csv")
    result = run("try", str(tmp_path / "clicks.csv"), "--output", str(tmp_path / "mine"), "--force")
    assert result.exit_code == 2
    assert "is no trial" in result.output
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("content", "options", "code", "said"),
    [
        ("a,b,c\n1,2,3\n", (), 2, "session_id"),
        ("session_id,item_id,timestamp\ns,i,1764000001\ns,j,1764000002\n", (), 2, "a single session"),
        (
            "session_id,item_id,timestamp\n" + "s1,,1764000001\n" * 5 + "s1,a,1764000001\n",
            (),
            1,
            "--max-rejected",
        ),
    ],
)
def test_what_is_no_log_is_told_in_one_line(
    tmp_path: Path, content: str, options: tuple[str, ...], code: int, said: str
) -> None:
    log = tmp_path / "clicks.csv"
    log.write_text(content)
    result = run("try", str(log), *options, "--output", str(tmp_path / "out"))
    assert result.exit_code == code, result.output
    assert said in result.output
    named = re.findall(r"listed in (\S+)", result.output)
    assert {log, *map(Path, named)} == set(tmp_path.iterdir())


def test_too_few_sessions_are_told(tmp_path: Path) -> None:
    """Two sessions to train on, one of them for validation, one to test on."""
    rows = [
        (f"s{n}", item, 1_764_000_000 + n * 172_800 + place)
        for n in range(3)
        for place, item in enumerate("aba")
    ]
    log = tmp_path / "clicks.csv"
    log.write_text("session_id,item_id,timestamp\n" + "".join(f"{s},{i},{t}\n" for s, i, t in rows))
    settings = ["--min-item-support", "1", "--validation", "0"]
    result = run("try", str(log), *settings, "--output", str(tmp_path / "out"))
    assert result.exit_code == 1, result.output
    assert "too few sessions: 2 to train on, 0 for validation, 1 to test on" in result.output
    assert list(tmp_path.iterdir()) == [log]


def test_an_unknown_model_is_told_before_anything_is_read(tmp_path: Path) -> None:
    result = run("try", "no-such.csv", "--models", "gru5rec", "--output", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "did you mean gru" in result.output


@pytest.mark.parametrize("end", [2, 12])
def test_ctrl_c_leaves_nothing(tmp_path: Path, end: int) -> None:
    write_log(tmp_path / "clicks.csv")
    before = set(tmp_path.iterdir())
    arguments = ["try", str(tmp_path / "clicks.csv"), "--item-column", "item_id<i>", "--threads", "1"]
    result = run(*arguments, "--output", str(tmp_path / "out"), clock=Clock(end=end))
    assert result.exit_code == 130, result.output
    assert set(tmp_path.iterdir()) == before
