#!/usr/bin/env bash
# What the trainer container does: makes a bundle of the click logs in data/ and puts it live.
#
#   first     the default: only when no bundle is live yet
#   retrain   whatever is live
#
# Anything else goes to `python -m training`: rollback, evaluate --bundle artifacts/bundles/... and so on.
# With data/ empty or absent, the clicks are those of a generated demo store. NEXTCLICK_PREPARE and
# NEXTCLICK_TRAIN hold more options for `prepare` and `train`, between spaces.
set -euo pipefail
shopt -s nullglob

run() {
  echo "\$ python -m training $*"
  python -m training "$@"
}

make_live() {
  local logs=(data/*) name=clicks train=(--model gru4rec) prepare_more train_more
  if [[ -e data && ! (-r data && -x data) ]]; then
    echo "data/ cannot be read by uid $(id -u): make it readable for everyone" >&2
    return 2
  fi
  # Two trainings at once would overwrite each other's data set and checkpoints. Free again when we are gone.
  exec {lock}>artifacts/.trainer.lock
  if ! flock --nonblock "$lock"; then
    echo "another training is under way" >&2
    return 1
  fi
  if ((${#logs[@]} == 0)); then
    echo "no click logs in data/: generating a demo store's"
    run demo-store --output artifacts/demo/clicks.csv
    logs=(artifacts/demo/clicks.csv) name=demo
    train+=(--set epochs=4)
  fi
  read -ra prepare_more <<<"${NEXTCLICK_PREPARE:-}"
  read -ra train_more <<<"${NEXTCLICK_TRAIN:-}"
  run prepare "${logs[@]/#/--input=}" --output "artifacts/data/$name" --force "${prepare_more[@]}"
  run train --data "artifacts/data/$name" --publish "${train[@]}" "${train_more[@]}"
}

case ${1:-first} in
  first)
    champion=$(python -c '
from pathlib import Path
from service.deployment import read_deployment
print(read_deployment(Path("artifacts")).champion or "")')
    if [[ $champion ]]; then
      echo "$champion is live already: nothing to do"
    else
      make_live
    fi
    ;;
  retrain) make_live ;;
  *) exec python -m training "$@" ;;
esac
