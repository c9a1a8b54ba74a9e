#!/usr/bin/env bash
# How many faults the tests notice: mutmut makes each of 7,000 in models/ and training/learn, and so many of them, drawn by
# a seed, are tried.
#
#     bash benchmarks/mutants.sh [how many] [seed]     a quarter of an hour, and 100 take 40 minutes; run again it goes on
#
# Who survived is listed; `build/mutmut/bin/mutmut show NAME` shows it.
set -euo pipefail
cd "$(dirname "$0")/.."
count=${1:-100} seed=${2:-1}
export OMP_NUM_THREADS=1
make --quiet .venv/dev.stamp
if ! [ -x build/mutmut/bin/mutmut ]; then # it has an environment of its own, which sees the project's
    .venv/bin/python -m venv build/mutmut
    build/mutmut/bin/pip install --quiet mutmut==3.8.1
    .venv/bin/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
        >"$(echo build/mutmut/lib/*/site-packages)/project.pth"
fi
sample() { # waiting: those not yet tried; result: what came of all
    .venv/bin/python - "$1" "$count" "$seed" <<'END'
import json
import random
import sys
from pathlib import Path

what, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
codes = {}
for file in sorted(Path("mutants").rglob("*.meta")):
    codes |= json.loads(file.read_text())["exit_code_by_key"]
tried = {name: codes[name] for name in random.Random(seed).sample(sorted(codes), count)}
if what == "waiting":
    print(*(name for name, code in tried.items() if code is None), sep="\n")
else:
    survived = [name for name, code in tried.items() if code in (0, 33)]  # 33: no test reaches it
    killed = sum(code is not None for code in tried.values()) - len(survived)
    print(*survived, sep="\n")
    print(f"{killed} of {killed + len(survived)} killed")
END
}
# The first run makes them all, and sees which tests call which function.
[ -e mutants/mutmut-stats.json ] || build/mutmut/bin/mutmut run "models.bounds.*__mutmut_1"
sample waiting | xargs --no-run-if-empty build/mutmut/bin/mutmut run
sample result
