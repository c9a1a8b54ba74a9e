#!/usr/bin/env bash
# All that a GPU is needed for, in one call: the tests on it, then benchmarks/gpu.py. For a machine that is lent
# for minutes: nothing is asked, what is measured is written down at once, and it ends before SECONDS_IN_ALL.
#
#     WHEELS=.whl DATA=artifacts/data/diginetica OUT=results bash benchmarks/gpu.sh
#
# WHEELS: a folder of wheels for what the machine's python3 lacks; without it pip is tried. PYTHON, DATA (else
# sessions are drawn), OUT (default gpu-results), SECONDS_IN_ALL (500), TEST_SECONDS (130) can be set; DEVICE=cpu
# tries the script out.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-gpu-results}
all=${SECONDS_IN_ALL:-500}
tests=${TEST_SECONDS:-130}
site=$(mktemp -d)
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH=$site:$PWD CUBLAS_WORKSPACE_CONFIG=:4096:8
log() { echo "[$SECONDS s] $*" | tee -a "$out/gpu.log"; }

if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" \
        "$WHEELS"/*.whl 2>&1 | tee -a "$out/gpu.log"
fi
needed='import faiss, lightning_fabric, onnxruntime, onnxscript, pydantic, structlog, typer, pytest, prometheus_client'
if ! "$python" -c "$needed"; then
    log "trying pip"
    "$python" -m pip install -q --retries 0 --timeout 10 --target "$site" faiss-cpu lightning-fabric \
        onnxruntime onnxscript pydantic structlog typer pytest prometheus-client 2>&1 | tail -3
fi
"$python" - <<'END' 2>&1 | tee -a "$out/gpu.log"
import importlib.metadata, sys, torch
print("python", sys.version.split()[0], "torch", torch.__version__, "cuda", torch.version.cuda)
for name in ("lightning-fabric", "numpy", "pandas", "faiss-cpu", "onnxruntime", "onnxscript", "pytest", "recbole"):
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "is not there")
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "torch sees no GPU")
END
command -v nvidia-smi >/dev/null && nvidia-smi -L | tee -a "$out/gpu.log"

# Several processes if pytest can: most of a small test is Python, and the GPU holds them all.
spread=()
"$python" -c 'import xdist' 2>/dev/null && spread=(-n 6)
log "tests"
timeout -k 5 "$tests" "$python" -m pytest -q -ra --noconftest -o addopts= -o filterwarnings=default \
    -p no:cacheprovider --tb=short "${spread[@]}" tests/models/test_cuda.py >"$out/tests.log" 2>&1
tested=$?
log "tests: exit code $tested"
tail -n 40 "$out/tests.log"

left=$((all - SECONDS - 25))
log "benchmark: $left s"
timeout -k 5 $((left + 20)) "$python" -W ignore -m benchmarks.gpu ${DATA:+--data "$DATA"} --output "$out" \
    --device "${DEVICE:-cuda}" --seconds "${GPU_SECONDS:-2.5}" --cpu-seconds "${CPU_SECONDS:-1.5}" \
    --recbole-seconds "${RECBOLE_SECONDS:-2}" --recbole-sessions "${RECBOLE_SESSIONS:-6000}" \
    --budget-seconds "$left" >"$out/benchmark.log" 2>&1
measured=$?
log "benchmark: exit code $measured"
cat "$out/gpu.md"
tail -n 30 "$out/benchmark.log"
[ $tested = 0 ] && [ $measured = 0 ]
