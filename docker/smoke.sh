#!/usr/bin/env bash
# Does `docker compose up` keep its word? From nothing to recommendations, through a restart, and away again.
#
# A project of its own beside any other: it shares no container, volume or port with one that is running.
# Needs docker with compose, curl and python3. NEXTCLICK_PORT (default 18000) is where it listens meanwhile,
# READY_SECONDS (default 900) the time it gives training.
set -euo pipefail
cd "$(dirname "$0")/.."

ready_seconds=${READY_SECONDS:-900}
restart_seconds=120
data=$(mktemp -d) # no click logs: the demo store's are generated
chmod 755 "$data"
# What the user set for the real thing is not for this one.
export COMPOSE_PROJECT_NAME=nextclick-smoke
export NEXTCLICK_HOST=127.0.0.1 NEXTCLICK_PORT=${NEXTCLICK_PORT:-18000} NEXTCLICK_WORKERS=2
export NEXTCLICK_API_KEY='' NEXTCLICK_ADMIN_API_KEY='' NEXTCLICK_RATE_LIMIT_PER_MINUTE='' NEXTCLICK_LOG_LEVEL=''
export NEXTCLICK_DATA=$data NEXTCLICK_PREPARE='' NEXTCLICK_TRAIN='--set epochs=1'
url=http://127.0.0.1:$NEXTCLICK_PORT

if docker compose version >/dev/null 2>&1; then
  compose() { docker compose "$@"; }
else
  compose() { docker-compose "$@"; }
fi

take_down() {
  local status=$?
  trap - EXIT
  if ((status)); then
    echo "FAILED; the logs:" >&2
    compose ps --all >&2 || true
    compose logs --no-color >&2 || true
  fi
  compose down --volumes --remove-orphans --rmi local || status=1
  rmdir "$data"
  exit "$status"
}

say() { echo "== $*"; }

fail() {
  echo "error: $*" >&2
  exit 1
}

# ask METHOD PATH [JSON]: prints the answer; anything but 2xx ends the script.
ask() {
  curl --silent --show-error --fail --max-time 10 --request "$1" --header 'content-type: application/json' \
    ${3:+--data "$3"} "$url$2"
}

# expect WHAT CONDITION JSON: CONDITION is Python about `answer`.
expect() {
  python3 -c '
import json, sys
what, condition, text = sys.argv[1:]
answer = json.loads(text)
if not eval(condition):
    sys.exit(f"error: {what}: expected {condition}, got {text}")
' "$@"
  say "$1"
}

# item_ids JSON: the items of an answer, one a line.
item_ids() { python3 -c 'import json, sys; [print(i["item_id"]) for i in json.loads(sys.argv[1])["items"]]' "$1"; }

# exit_code CONTAINER: empty while it runs.
exit_code() { docker inspect --format '{{if eq .State.Status "exited"}}{{.State.ExitCode}}{{end}}' "$1"; }

# wait_until_ready SECONDS: ends the script when the time is up, or when the trainer gave up.
wait_until_ready() {
  local started=$SECONDS answer=none
  until answer=$(curl --silent --max-time 2 --write-out ' %{http_code}' "$url/health/ready") &&
    [[ $answer == *' 200' ]]; do
    if ((SECONDS - started > $1)); then
      fail "not ready after $1 s; last answer: $answer"
    fi
    if [[ $(exit_code "$trainer") == [1-9]* ]]; then
      fail "the trainer failed"
    fi
    sleep 1
  done
  say "ready after $((SECONDS - started)) s"
}

trap take_down EXIT
trap 'exit 130' INT TERM
compose down --volumes --remove-orphans # what a killed run may have left

say "building and starting"
compose up --build --detach
service=$(compose ps --all --quiet service)
trainer=$(compose ps --all --quiet trainer)
wait_until_ready "$ready_seconds"
sleep 5 # one worker was asked; the others follow within this time

popular=$(ask GET '/recommend?session_id=nobody')
expect "a visitor without clicks gets 20 items" 'len(answer["items"]) == 20' "$popular"
{ read -r first && read -r second; } < <(item_ids "$popular")

answer=$(ask POST /sessions/smoke/click "{\"item_id\": \"$first\"}")
expect "the first click is stored" 'answer["length"] == 1' "$answer"
answer=$(ask POST /sessions/smoke/click "{\"item_id\": \"$second\"}")
expect "the second click is stored" 'answer["length"] == 2' "$answer"

before=$(ask GET '/recommend?session_id=smoke')
expect "the model answers the session with 20 different items" \
  'answer["stage"] == "model" and len({i["item_id"] for i in answer["items"]}) == 20' "$before"

compose restart redis service
wait_until_ready "$restart_seconds"

session=$(ask GET /sessions/smoke)
expect "both clicks outlived the restart" \
  "[click['item_id'] for click in answer['clicks']] == ['$first', '$second']" "$session"
after=$(ask GET '/recommend?session_id=smoke')
expect "the model answers again" 'answer["stage"] == "model"' "$after"
[[ $(item_ids "$before") == "$(item_ids "$after")" ]] || fail "other items than before: $before, $after"
say "with the same 20 items"

live=$(ask GET /models)
compose run --rm -T trainer
[[ $(ask GET /models) == "$live" ]] || fail "a second trainer changed what is live: $live"
say "a second trainer found a live bundle and left it alone"

[[ $(compose exec -T service id -u) != 0 ]] || fail "the service runs as root"
if compose exec -T service sh -c 'touch ~/written'; then
  fail "the service can write to its root file system"
fi
say "the service is not root and cannot write to its root file system"

compose stop service
[[ $(exit_code "$service") == 0 ]] || fail "the service did not stop by itself: exit code $(exit_code "$service")"
say "the service stopped when it was asked to"
say "passed; taking it all down"
