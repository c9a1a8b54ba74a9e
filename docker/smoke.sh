#!/usr/bin/env bash
# Does `docker compose up` keep its word? From nothing to recommendations, through a restart, to a model made of the
# clicks that were sent meanwhile, back to the one before, and away again.
#
# A project of its own beside any other: it shares no container, volume or port with one that is running.
# Needs docker with compose, curl and python3. NEXTCLICK_PORT (default 18000) is where it listens meanwhile,
# READY_SECONDS (default 900) the time it gives the first training, LOOP_SECONDS (default 900) what it gives the next.
set -euo pipefail
cd "$(dirname "$0")/.."

ready_seconds=${READY_SECONDS:-900}
restart_seconds=120
loop_seconds=${LOOP_SECONDS:-900}
replayed_sessions=10000
place=$(mktemp -d)
mkdir "$place/data" # no click logs: the demo store's are generated
cat >"$place/retrain.toml" <<'TOML'
[prepare]
min_sessions = 5000 # so that no run before the replay is well under way makes a model

[train]
model = "gru"
set = ["epochs=1"]
threads = 2

[gate] # whether the new model is a better one is not what is looked at here
margin_recall = 100
margin_mrr = 100
max_drift = 100
max_answer_ms = 1000
TOML
chmod -R a+rX "$place"
# What the user set for the real thing is not for this one.
export COMPOSE_PROJECT_NAME=nextclick-smoke
export NEXTCLICK_HOST=127.0.0.1 NEXTCLICK_PORT=${NEXTCLICK_PORT:-18000} NEXTCLICK_WORKERS=2
export NEXTCLICK_API_KEY='' NEXTCLICK_SERVER_API_KEY='' NEXTCLICK_ADMIN_API_KEY='' NEXTCLICK_KEYS='' NEXTCLICK_CORS_ORIGINS='' NEXTCLICK_PUBLIC_SESSION_IDS=''
export NEXTCLICK_DURABILITY='' NEXTCLICK_REDIS_APPENDFSYNC='' NEXTCLICK_RATE_LIMIT_PER_MINUTE='' NEXTCLICK_LOG_LEVEL='' NEXTCLICK_REDIS_URL='' NEXTCLICK_REDIS_PASSWORD=''
export NEXTCLICK_TRUSTED_PROXIES='' NEXTCLICK_ROOT_PATH=''
export NEXTCLICK_REDIS_MAXMEMORY='' NEXTCLICK_REDIS_MEMORY='' NEXTCLICK_SERVICE_MEMORY='' NEXTCLICK_TRAINER_MEMORY=''
export NEXTCLICK_DATA=$place/data NEXTCLICK_PREPARE='' NEXTCLICK_TRAIN='--set epochs=1'
export NEXTCLICK_RETRAIN_CONFIG=$place/retrain.toml NEXTCLICK_RETRAIN_CRON='*/2 * * * *' NEXTCLICK_RETRAIN_TIMEZONE=UTC
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
  stop_asking
  compose down --volumes --remove-orphans --rmi local || status=1
  rm -r "$place"
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

# restarts CONTAINER: how often it came to an end and was started again.
restarts() { docker inspect --format '{{.RestartCount}}' "$1"; }

# keep_asking FILE: asks for recommendations all the time, in the background; one HTTP status a line.
keep_asking() {
  while true; do
    curl --silent --output /dev/null --max-time 10 --write-out '%{http_code}\n' \
      "$url/recommend?session_id=smoke" || true
    sleep 0.05
  done >"$1" &
  asker=$!
}

stop_asking() {
  if [[ ${asker:-} ]]; then
    kill "$asker" && wait "$asker" || true
    asker=
  fi
}

# champion: the version that is live.
champion() { ask GET /models | python3 -c 'import json, sys; print(json.load(sys.stdin)["champion"])'; }

# wait_for_champion_other_than VERSION SECONDS
wait_for_champion_other_than() {
  local started=$SECONDS now
  while true; do
    now=$(champion) # no answer ends the script
    [[ $now == "$1" ]] || break
    if ((SECONDS - started > $2)); then
      fail "$1 is still live after $2 s"
    fi
    sleep 1
  done
  say "another champion after $((SECONDS - started)) s"
}

# wait_until_ready SECONDS: ends the script when the time is up, or when the trainer gave up.
wait_until_ready() {
  local started=$SECONDS answer=none
  until answer=$(curl --silent --max-time 2 --write-out ' %{http_code}' "$url/health/ready") &&
    [[ $answer == *' 200' ]]; do
    if ((SECONDS - started > $1)); then
      fail "not ready after $1 s; last answer: $answer"
    fi
    if (($(restarts "$trainer"))); then
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
compose run --rm -T trainer first
[[ $(ask GET /models) == "$live" ]] || fail "a second trainer changed what is live: $live"
say "a second trainer found a live bundle and left it alone"

old=$(champion)
keep_asking "$place/statuses"
compose exec -T trainer cat artifacts/demo/clicks.csv >"$place/clicks.csv"
say "$(python3 docker/replay.py "$place/clicks.csv" "$url" "$replayed_sessions")"
wait_for_champion_other_than "$old" "$loop_seconds"
new=$(champion)
published=$(compose exec -T trainer python -c '
import json, pathlib
runs = [json.loads(file.read_text()) for file in pathlib.Path("artifacts/runs").glob("*/run.json")]
print(json.dumps([run for run in runs if run["status"] == "published"]))')
expect "$new was made and published by a scheduled run" "'$new' in text and len(answer) >= 1" "$published"

# Long before the next run can have a model.
compose exec -T trainer nextclick rollback
sleep 5 # the workers follow within this time
[[ $(champion) == "$old" ]] || fail "rollback made $(champion) live, not $old"
answer=$(ask GET '/recommend?session_id=smoke')
expect "rollback brought $old back" "answer['version'] == '$old'" "$answer"
stop_asking
failures=$(grep --count --invert-match '^200$' "$place/statuses" || true)
asked=$(grep --count '' "$place/statuses")
((failures == 0 && asked > 100)) || fail "$failures of $asked requests failed meanwhile"
say "each of $asked requests meanwhile was answered"

for name in redis trainer; do
  [[ $(compose exec -T "$name" id -u) != 0 ]] || fail "the $name container runs as root"
  if compose exec -T "$name" touch /written; then
    fail "the $name container can write to its root file system"
  fi
done
answer=$(compose exec -T redis redis-cli ping || true)
[[ $answer == *NOAUTH* ]] || fail "Redis answers without a password: $answer"
answer=$(compose exec -T redis sh -c 'REDISCLI_AUTH=$(cat "$REDIS_PASSWORD_FILE") redis-cli config get maxmemory')
[[ $answer == *1073741824* ]] || fail "Redis has no limit below its container's: $answer"
say "Redis asks for a password, and has a limit of memory"

[[ $(compose exec -T service id -u) != 0 ]] || fail "the service runs as root"
if compose exec -T service sh -c 'touch ~/written'; then
  fail "the service can write to its root file system"
fi
say "the service is not root and cannot write to its root file system"

metrics=$(compose exec -T service python -c '
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:9464/metrics", timeout=10).read().decode())')
grep --quiet '^nextclick_clicks_total{outcome="accepted"}' <<<"$metrics" || fail "no clicks in the metrics: $metrics"
[[ $(curl --silent --output /dev/null --max-time 10 --write-out '%{http_code}' "$url/metrics") == 404 ]] ||
  fail "shoppers can read the metrics"
say "the metrics are told inside, and not to shoppers"

compose stop service
[[ $(exit_code "$service") == 0 ]] || fail "the service did not stop by itself: exit code $(exit_code "$service")"
say "the service stopped when it was asked to"
compose stop trainer
[[ $(exit_code "$trainer") == 0 ]] || fail "the trainer did not stop by itself: exit code $(exit_code "$trainer")"
say "so did the trainer"
say "passed; taking it all down"
