#!/usr/bin/env bash
# Trains what validation liked (benchmarks/README.md) on a GPU that is lent for minutes, all at once, blends the
# refitted models of each data set with equal weights, and measures each once on the test sessions.
#
#     OUT=results bash benchmarks/finals.sh
#
# DEVICE (cuda), PYTHON (python3), MORE (further --set, to try it out) and SECONDS_IN_ALL (280) can be set.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-finals}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$PWD CUBLAS_WORKSPACE_CONFIG=:4096:8

# name, data set, then what `train` is told.
one() {
    local name=$1 data=$2
    shift 2
    "$python" -W ignore -m training train --data "artifacts/data/$data" --device "${DEVICE:-cuda}" --threads 1 --seed 1 \
        --index flat --artifacts "artifacts/finals/$name" --test --json "$@" ${MORE:-} >"$out/$name.json" 2>"$out/$name.log" \
        || echo "$name: exit code $?"
    echo "[$SECONDS s] $name $(grep -o '"test": {[^}]*}' "$out/$name.json" | grep -o '"\(recall\|mrr\)@20": [0-9.]*' | tr '\n' ' ')"
}

blend() {
    local data=$1 members=()
    shift
    for name in "$@"; do
        members+=(--bundle artifacts/finals/"$name"/bundles/*)
    done
    "$python" -W ignore -m training blend "${members[@]}" --data "artifacts/data/$data" --weights equal --index flat --threads 2 \
        --artifacts "artifacts/finals/blend-$data-$#" --test --json >"$out/blend-$data-$#.json" 2>"$out/blend-$data-$#.log" \
        || echo "blend of $data: exit code $?"
    echo "[$SECONDS s] blend of $# on $data: $(cat "$out/blend-$data-$#.json")"
}

wide=(--set dim=200 --set time_order=true)
(
    one pen4rec-diginetica diginetica --model pen4rec "${wide[@]}" --set dropout=0.45 --refit-epochs 6 &
    one gru-diginetica diginetica --model gru "${wide[@]}" --set dropout_embedding=0.4 --set epochs=6 --refit &
    one core-diginetica diginetica --model core "${wide[@]}" --refit-epochs 7 &
    one niser-diginetica diginetica --model niser "${wide[@]}" --set dropout=0.35 --refit-epochs 5 &
    wait
    blend diginetica pen4rec-diginetica gru-diginetica core-diginetica niser-diginetica
) &
(
    one pen4rec-yoochoose yoochoose1_64 --model pen4rec "${wide[@]}" --set dropout=0.35 --set epochs=8 --refit &
    one gru-yoochoose yoochoose1_64 --model gru "${wide[@]}" --set dropout_embedding=0.4 --set epochs=7 --refit &
    one sgnn_hn-yoochoose yoochoose1_64 --model sgnn_hn "${wide[@]}" --refit-epochs 6 &
    wait
    blend yoochoose1_64 pen4rec-yoochoose gru-yoochoose sgnn_hn-yoochoose
) &
one pen4rec-repeats-diginetica diginetica --model pen4rec "${wide[@]}" --set dropout=0.45 --set epochs=6 --refit &
watch=$!
while kill -0 $watch 2>/dev/null || [ -n "$(jobs -pr)" ]; do
    sleep 1
    [ "$SECONDS" -gt "${SECONDS_IN_ALL:-280}" ] && { echo "time is up"; break; }
done
