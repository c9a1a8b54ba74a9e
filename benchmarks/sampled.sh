#!/usr/bin/env bash
# What a sampled loss costs in quality: the GRU of diginetica by full softmax and by sample, three seeds, two trainings
# at a time, the long ones first. It goes on after an interruption. Two slow cores take two and a half hours.
set -euo pipefail
export data=${DATA:-artifacts/data/diginetica} out=${OUT:-artifacts/sampled}
# What `train` is told beside that: a variable each, by the name of the way.
export full="" sampled="--set loss=sampled-ce --set negatives=8192 --set negatives_power=0.5"
train() {
    nextclick train --data "$data" --model gru --threads 1 --test --resume --seed "$2" \
        --results "$out/$1/$2/results" --artifacts "$out/$1/$2" ${!1} > "$out/$1-$2.log" 2>&1
}
export -f train
mkdir -p "$out"
printf "%s\n" {full,sampled}" "{1,2,3} | xargs --max-procs 2 --replace bash -c "train {}"
grep --after-context=2 "^test:" "$out"/*.log
