#!/usr/bin/env bash
# What the trainer container does: makes bundles and puts them live.
#
#   schedule  the default: `first`, then a run whenever $RETRAIN_CRON is due, as /app/retrain.toml says, on the clicks
#             that the service has logged
#   first     a bundle of the click logs in data/, only when no bundle is live yet
#   retrain   the same, whatever is live
#   console   the operator's pages; its options are those of `nextclick console`
#
# Anything else goes to `python -m training`: rollback, evaluate --bundle artifacts/bundles/... and so on.
# With data/ empty or absent, the clicks are those of a generated demo store. $PREPARE and $TRAIN hold more options
# for `prepare` and `train`, between spaces. No name here begins with NEXTCLICK_: commands read the service's settings
# from the environment, and refuse what is none of them.
set -euo pipefail
shopt -s nullglob

# In the background, since a shell that waits for a command in the foreground heeds no signal.
run() {
  echo "\$ python -m training $*"
  python -m training "$@" &
  child=$!
  wait "$child"
}

child=
trap '[[ $child ]] && kill "$child" 2>/dev/null; exit 143' TERM INT

make_live() {
  local logs=(data/*) name=clicks train=(--model gru) prepare_more train_more lock
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
  read -ra prepare_more <<<"${PREPARE:-}"
  read -ra train_more <<<"${TRAIN:-}"
  run prepare "${logs[@]/#/--input=}" --output "artifacts/data/$name" --force "${prepare_more[@]}"
  run train --data "artifacts/data/$name" --publish "${train[@]}" "${train_more[@]}"
  exec {lock}>&- # the schedule, which this shell becomes, shall not keep it
}

make_first_live() {
  local champion
  champion=$(python -c '
from pathlib import Path
from service.live.deployment import read_deployment
print(read_deployment(Path("artifacts")).champion or "")')
  if [[ $champion ]]; then
    echo "$champion is live already: nothing to do"
  else
    make_live
  fi
}

case ${1:-schedule} in
  schedule)
    make_first_live
    exec python -m training schedule --cron "${RETRAIN_CRON:-0 3 * * *}" --timezone "${RETRAIN_TIMEZONE:-UTC}"
    ;;
  first) make_first_live ;;
  retrain) make_live ;;
  console) exec python -m console "${@:2}" ;;
  *) exec python -m training "$@" ;;
esac
