#!/bin/sh
# Runs a command that finds the project's Redis by the password in $REDIS_PASSWORD_FILE, and by $REDIS_HOST where it is not
# called redis, unless it is told of another one.
set -eu
if [ -z "${NEXTCLICK_REDIS_URL:-}${NEXTCLICK_REDIS_URL_FILE:-}${REDIS_URL:-}" ] && [ -n "${REDIS_PASSWORD_FILE:-}" ]; then
  NEXTCLICK_REDIS_URL="redis://:$(cat "$REDIS_PASSWORD_FILE")@${REDIS_HOST:-redis}:6379/0"
  export NEXTCLICK_REDIS_URL
fi
exec "$@"
