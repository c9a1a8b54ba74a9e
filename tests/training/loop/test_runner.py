"""Real children of real signals: passed on, waited for, killed, reaped, and nicer than we are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.loop.runner import NICENESS, Runner

HERE = """
import json, os, signal, subprocess, sys, threading, time
place = sys.argv[1]

def write(text):
    with open(place + ".new", "w") as file:
        file.write(text)
    os.rename(place + ".new", place)

"""


def runner(program: str, *, grace_seconds: float = 30) -> tuple[Runner, list[str]]:
    """One that runs `program` whatever the command, and what it says."""
    said: list[str] = []
    program_words = [sys.executable, "-c", HERE + program]
    return Runner(os.environ, said.append, program=program_words, grace_seconds=grace_seconds), said


def alive(pid: int) -> bool:
    """Whether a process is there, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    """Whether it is within ten seconds."""
    for _ in range(200):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


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
time.sleep(60)
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
time.sleep(60)
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
write(json.dumps([os.getpid(), subprocess.Popen(["sleep", "60"]).pid]))
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
""",
        grace_seconds=0.5,
    )
    with made as running:
        assert running.run([str(out)]) is None
    assert running.killed
    assert said == ["does not end within 0.5 s of SIGTERM: killed"]
    for pid in json.loads(out.read_text()):
        assert gone(pid)


def test_signals_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
    made, _ = runner("")
    with made:
        assert signal.getsignal(signal.SIGTERM) not in before
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
    assert after == before
    assert signal.set_wakeup_fd(-1) == -1


# A process that orphans come to, as they come to process 1 of a container.
ADOPTS = """
import ctypes, os, sys
from training.loop.runner import Runner

assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
leaves_orphans = (
    "import subprocess\\n"
    "subprocess.Popen(['true'])\\n"
    "print(subprocess.Popen(['sleep', '0.5']).pid, flush=True)"
)
with Runner(os.environ, print, program=[sys.executable, "-c", leaves_orphans]) as running:
    code = running.run([])
    for _ in range(100):
        running.wait(0.2)
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            sys.exit(code)
sys.exit("a zombie was left")
"""


def test_orphans_are_reaped_as_process_1_has_to() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ADOPTS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(f"/proc/{int(done.stdout)}").exists()


RUNS_FOR_EVER = """
import os, sys
from training.loop.runner import Runner

program = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
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
    assert gone(command)
