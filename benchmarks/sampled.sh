#!/usr/bin/env bash
# What a sampled loss costs in quality: the GRU of diginetica by full softmax and by sample, three seeds, two at a time.
# It goes on after an interruption. A pair of trainings takes more than an hour on two slow cores.
set -euo pipefail
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
data=${DATA:-artifacts/data/diginetica} out=${OUT:-artifacts/sampled}
train() {
    nextclick train --data "$data" --model gru --threads 1 --test --resume --seed "$1" \
        --results "$out/$2/$1/results" --artifacts "$out/$2/$1" "${@:3}" > "$out/$2-$1.log" 2>&1
}
mkdir -p "$out"
for seed in 1 2 3; do
    train "$seed" full & full=$!
    train "$seed" sampled --set loss=sampled-ce --set negatives=8192 --set negatives_power=0.5
    wait "$full"
done
grep --after-context=2 "^test:" "$out"/*.log
