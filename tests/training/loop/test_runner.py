"""Real children of real signals: passed on, waited for, killed, and nicer than we are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import alive, until
from training.loop.runner import NICENESS, Runner

HERE = """
import json, os, signal, subprocess, sys, threading
place = sys.argv[1]

def write(text):
    with open(place + ".new", "w") as file:
        file.write(text)
    os.rename(place + ".new", place)

def never_end():
    while True:
        signal.pause()

"""


def runner(program: str, *, grace_seconds: float = 30) -> tuple[Runner, list[str]]:
    """One that runs `program` whatever the command, and what it says."""
    said: list[str] = []
    program_words = [sys.executable, "-c", HERE + program]
    return Runner(os.environ, said.append, program=program_words, grace_seconds=grace_seconds), said


def wait_until_gone(*pids: int) -> None:
    until(lambda: not any(map(alive, pids)), lambda: f"alive: {[pid for pid in pids if alive(pid)]}")


@pytest.mark.parametrize(("program", "code"), [("", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9)])
def test_the_exit_code_is_the_command_s(tmp_path: Path, program: str, code: int) -> None:
    made, _ = runner(program)
    with made as running:
        assert running.run([str(tmp_path / "out")]) == code
        assert not running.wait(0)


def test_a_command_is_nicer_in_all_its_threads(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made, _ = runner(
        """
found = [os.getpriority(os.PRIO_PROCESS, 0)]
thread = threading.Thread(
    target=lambda: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
)
thread.start()
thread.join()
write(json.dumps(found))
"""
    )
    with made as running:
        assert running.run([str(out)]) == 0
    expected = min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, 19)
    assert json.loads(out.read_text()) == [expected, expected]


def test_a_command_gets_the_environment_it_is_given(tmp_path: Path) -> None:
    program = [sys.executable, "-c", HERE + "write(os.environ['NEXTCLICK_ARTIFACTS_DIR'])"]
    environment = {**os.environ, "NEXTCLICK_ARTIFACTS_DIR": "elsewhere"}
    with Runner(environment, print, program=program) as running:
        assert running.run([str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_text() == "elsewhere"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_as_sigterm(tmp_path: Path, number: signal.Signals) -> None:
    """The command itself signals us: by then it is ready for ours."""
    out = tmp_path / "out"
    made, _ = runner(
        f"""
def end(number, frame):
    write(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, end)
os.kill(os.getppid(), {int(number)})
never_end()
"""
    )
    with made as running:
        assert running.run([str(out)]) is None, "it was cut off"
        assert running.wait(60), "and it is time to stop"
    assert out.read_text() == str(int(signal.SIGTERM))
    assert not running.killed


def test_a_command_that_ends_well_in_its_grace_was_not_cut_off(tmp_path: Path) -> None:
    made, _ = runner(
        """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
os.kill(os.getppid(), signal.SIGTERM)
never_end()
"""
    )
    with made as running:
        assert running.run([str(tmp_path / "out")]) == 0
        assert running.wait(60)


def test_a_command_that_heeds_no_signal_is_killed_with_all_it_started(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made, said = runner(
        """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
write(json.dumps([os.getpid(), subprocess.Popen(["sleep", "infinity"]).pid]))
os.kill(os.getppid(), signal.SIGTERM)
never_end()
""",
        grace_seconds=0.1,
    )
    with made as running:
        assert running.run([str(out)]) is None
    assert running.killed
    assert said == ["does not end within 0.1 s of SIGTERM: killed"]
    wait_until_gone(*json.loads(out.read_text()))


def test_signals_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
    made, _ = runner("")
    with made:
        assert signal.getsignal(signal.SIGTERM) not in before
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
    assert after == before
    assert signal.set_wakeup_fd(-1) == -1


RUNS_FOR_EVER = """
import os, sys
from training.loop.runner import Runner

program = [sys.executable, "-c", "import os, signal; print(os.getpid(), flush=True); signal.pause()"]
with Runner(os.environ, print, program=program) as running:
    running.run([])
"""


def test_a_command_does_not_outlive_a_scheduler_that_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", RUNS_FOR_EVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        command = int(process.stdout.readline())
        assert alive(command)
        process.kill()
        process.wait()
    wait_until_gone(command)
