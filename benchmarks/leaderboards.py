"""Fills the leaderboards on a machine that is lent for minutes: trainings, blends, students, many at once.

    python -m benchmarks.leaderboards --jobs benchmarks/leaderboards.txt --together 14 --output board

A line of the jobs is a name, a data set under `--data`, and what to make of it; jobs start in the order of
the file, each as soon as what it is made of is there:

    core-1  diginetica  train core --seed 1 --set dim=200 --variant wide  as `train --refit --results` is told
    three   diginetica  blend gru-1 core-1 pen4rec-1                      of refitted members, tested
    taught  diginetica  teacher gru-1 gru-2                               of members new to validation
    learnt  diginetica  student taught gru --seed 1 --variant student     with `--teacher`, and refitted

Whose name a `teacher` names is first trained without `--refit`, and then goes on from its checkpoint. All is
measured by the commands of the product, as everywhere. Run it again to go on after an interruption: what is
done is not made anew.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("train", "blend", "teacher", "student")


@dataclass
class Job:
    """A line of the file: the names of jobs it is made of, and what its command is told."""

    name: str
    data: str
    kind: str
    made_of: tuple[str, ...]
    said: tuple[str, ...]
    first_select: bool = False  # a teacher wants its bundle before it is refitted

    @classmethod
    def read(cls, line: str) -> Job:
        """Of a line. Raises `ValueError`."""
        name, data, kind, *rest = line.split()
        if kind not in KINDS:
            raise ValueError(f"{line!r}: {kind} is none of {', '.join(KINDS)}")
        names = {"train": 0, "student": 1}.get(kind, len(rest))
        return cls(name, data, kind, tuple(rest[:names]), tuple(rest[names:]))


def read_jobs(text: str) -> list[Job]:
    """Of a file of lines. Raises `ValueError`."""
    lines = [line.split("#")[0] for line in text.splitlines()]
    jobs = [Job.read(line) for line in lines if line.strip()]
    names: set[str] = set()
    for job in jobs:
        if job.name in names:
            raise ValueError(f"two jobs are called {job.name}")
        names.add(job.name)
    for job in jobs:
        for name in job.made_of:
            if name not in names:
                raise ValueError(f"{job.name}: there is no job {name}")
    taught_by = {name for job in jobs if job.kind == "teacher" for name in job.made_of}
    for job in jobs:
        job.first_select = job.name in taught_by
    return jobs


@dataclass
class Bench:
    """Where everything lies, and what runs."""

    jobs: list[Job]
    data: Path
    output: Path
    index: str
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def place(self, name: str) -> Path:
        """A job's artifacts, its log and its marks."""
        return self.output / "runs" / name

    def is_done(self, name: str, step: str = "done") -> bool:
        return (self.place(name) / step).exists()

    def bundle(self, name: str, step: str) -> str:
        """The bundle that lay there when a step had ended: the newest then."""
        return (self.place(name) / step).read_text()

    def command(self, job: Job) -> tuple[str, list[str]] | None:
        """The next step of a job and what makes it, or None: it waits for another."""
        common = ["--data", str(self.data / job.data), "--index", self.index]
        common += ["--artifacts", str(self.place(job.name))]
        results = ["--refit", "--resume", "--results", str(self.output / "results")]
        if job.kind == "train":
            select = job.first_select and not self.is_done(job.name, "selected")
            step = "selected" if select else "done"
            model, *said = job.said
            made = ["train", "--model", model, *common, "--threads", "1", *said]
            if not select:
                return step, made + results
            return step, [*without_variant(made), "--resume"]
        needed = {"blend": "done", "teacher": "selected", "student": "done"}[job.kind]
        if not all(self.is_done(name, needed) for name in job.made_of):
            return None
        bundles = [self.bundle(name, needed) for name in job.made_of]
        if job.kind == "student":
            model, *said = job.said
            return "done", ["train", "--model", model, *common, *said, "--teacher", bundles[0], *results]
        members = [part for each in bundles for part in ("--bundle", each)]
        tested = ["--test"] if job.kind == "blend" else []
        return "done", ["blend", *members, *common, "--weights", "equal", "--threads", "2", "--json", *tested]

    def start(self, job: Job, step: str, command: list[str]) -> None:
        place = self.place(job.name)
        place.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-W", "ignore", "-m", "training", *command]
        with (place / "log").open("a") as log, (place / f"{step}.json").open("w") as told:
            log.write(f"$ {shlex.join(command)}\n")
            log.flush()
            self.running[job.name] = subprocess.Popen(command, stdout=told, stderr=log)

    def ended(self, job: Job, step: str, code: int) -> None:
        """A step has ended: a mark, with the newest bundle in it, or why there is none."""
        if code:
            self.failed[job.name] = code
        else:
            bundles = sorted(
                (self.place(job.name) / "bundles").glob("*/manifest.json"), key=lambda f: f.stat().st_mtime
            )
            (self.place(job.name) / step).write_text(str(bundles[-1].parent) if bundles else "")
        self.tell(f"{job.name}: {step if not code else f'exit code {code}'} {self.figures(job, step)}")

    def figures(self, job: Job, step: str) -> str:
        """Test Recall@20 and MRR@20 where they were measured, else validation's."""
        try:
            told = json.loads((self.place(job.name) / f"{step}.json").read_text())
        except (OSError, ValueError):
            told = {}
        result = newest_result(self.output / "results", self.place(job.name)) if step == "done" else None
        for found, name in ((result or told, "test"), (told, "validation")):
            if metrics := found.get(name):
                return f"{name} {metrics['recall@20']:.2f} / {metrics['mrr@20']:.2f}"
        return ""

    def tell(self, line: str) -> None:
        line = f"[{time.monotonic() - self.started:4.0f} s] {line}"
        print(line, flush=True)
        with (self.output / "told.txt").open("a") as told:
            told.write(line + "\n")

    def run(self, together: int, seconds: float) -> None:
        """All jobs, so many at once, until the time is up."""
        steps: dict[str, str] = {}
        while time.monotonic() - self.started < seconds:
            for job in self.jobs:
                process = self.running.get(job.name)
                if process is not None and process.poll() is not None:
                    del self.running[job.name]
                    self.ended(job, steps[job.name], process.returncode)
            waiting = [
                job
                for job in self.jobs
                if job.name not in self.running and job.name not in self.failed and not self.is_done(job.name)
            ]
            if not self.running and not any(self.command(job) for job in waiting):
                return  # all is made, or waits for what failed
            for job in waiting:
                if len(self.running) < together and (next_step := self.command(job)):
                    steps[job.name] = next_step[0]
                    self.start(job, *next_step)
            time.sleep(0.2)
        self.tell(f"time is up; {', '.join(self.running) or 'nothing'} was running")
        for process in self.running.values():
            process.kill()
            process.wait()
        self.running.clear()


def without_variant(command: list[str]) -> list[str]:
    """A run that writes no result has no line on a leaderboard."""
    if "--variant" not in command:
        return command
    at = command.index("--variant")
    return command[:at] + command[at + 2 :]


def newest_result(results: Path, place: Path) -> dict[str, Any] | None:
    """What a run that lies in `place` left among the results."""
    for file in results.glob("*/*.json"):
        found = json.loads(file.read_text())
        if f"--artifacts {place} " in f"{found['command']} ":
            return dict(found)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("artifacts/data"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--index", default="flat")
    parser.add_argument("--together", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=float, default=500)
    options = parser.parse_args()
    jobs = read_jobs(options.jobs.read_text())
    options.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(jobs, options.data, options.output, options.index)
    bench.run(options.together, options.seconds)
    left = [job.name for job in jobs if not bench.is_done(job.name)]
    bench.tell(f"not made: {', '.join(left) or 'nothing'}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
