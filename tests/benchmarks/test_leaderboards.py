"""The list of what is trained on a lent GPU: it can be run as it stands, and in an order that builds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.leaderboards import Bench, Job, read_jobs
from training.learn.hyper import resolve
from training.learn.registry import baseline_names, find_model

JOBS = Path(__file__).parents[2] / "benchmarks" / "leaderboards.txt"
OPTIONS = {"--seed", "--threads", "--set", "--variant", "--paper-of"}
LINES = """
gru-1  shop train gru --seed 1 --set dim=8 --variant wide
gru-2  shop train gru --seed 2
taught shop teacher gru-1
learnt shop student taught gru --threads 4
both   shop blend gru-1 gru-2
"""


def test_every_job_of_the_list_can_be_run_and_has_a_result_of_its_own() -> None:
    written = []
    for job in read_jobs(JOBS.read_text()):
        if job.kind not in ("train", "student"):
            continue
        model, *options = job.said
        told = [(name, value) for name, value in pairwise(options) if name.startswith("--")]
        assert {name for name, _ in told} <= OPTIONS, job.name
        if model not in baseline_names():
            settings = [value for name, value in told if name == "--set"]
            resolve(find_model(model), settings, dict(told).get("--paper-of"))
        written.append((job.data, model, dict(told).get("--variant"), dict(told).get("--seed")))
    assert len(set(written)) == len(written)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(read_jobs(LINES), Path("data"), tmp_path, "flat")


def told(bench: Bench, name: str) -> tuple[str, str] | None:
    found = bench.command(next(job for job in bench.jobs if job.name == name))
    return found and (found[0], " ".join(found[1]))


def done(bench: Bench, name: str, step: str, bundle: str) -> None:
    bench.place(name).mkdir(exist_ok=True, parents=True)
    (bench.place(name) / step).write_text(bundle)


def test_a_teachers_member_is_refitted_after_its_bundle_is_there(bench: Bench) -> None:
    step, command = told(bench, "gru-1") or ("", "")
    assert step == "selected"
    assert "--refit" not in command
    assert "--variant" not in command, "without a result it has no line"
    done(bench, "gru-1", "selected", "early")
    step, command = told(bench, "gru-1") or ("", "")
    assert step == "done"
    assert all(word in command for word in ("--refit", "--resume", "--variant wide", "--seed 1"))
    assert (told(bench, "gru-2") or ("", ""))[0] == "done", "it teaches nobody"


def test_what_is_made_of_others_waits_for_them(bench: Bench) -> None:
    assert [told(bench, name) for name in ("taught", "learnt", "both")] == [None] * 3
    done(bench, "gru-1", "selected", "early")
    assert "--bundle early" in (told(bench, "taught") or ("", ""))[1]
    assert "--test" not in (told(bench, "taught") or ("", ""))[1]
    done(bench, "taught", "done", "teacher")
    assert "--teacher teacher --refit" in (told(bench, "learnt") or ("", ""))[1]
    done(bench, "gru-1", "done", "late")
    assert told(bench, "both") is None
    done(bench, "gru-2", "done", "other")
    assert "--bundle late --bundle other" in (told(bench, "both") or ("", ""))[1]


def test_a_list_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="learn is none of train, blend, teacher, student"):
        Job.read("a shop learn gru")
    with pytest.raises(ValueError, match="two jobs are called gru-1"):
        read_jobs(LINES + "gru-1 shop train gru")
    with pytest.raises(ValueError, match="both: there is no job gru-3"):
        read_jobs(LINES.replace("blend gru-1 gru-2", "blend gru-1 gru-3"))
