#!/bin/sh
# Writes the password of this project's Redis to $REDIS_PASSWORD_FILE: the one that is set, else the one that is there
# already, else a new one. Everybody in a container that has the file may read it; it lies in a volume of its own.
set -eu
case ${REDIS_PASSWORD:-} in
*[!A-Za-z0-9._~-]*)
  echo "NEXTCLICK_REDIS_PASSWORD becomes a part of a URL: it may hold letters, digits and . _ ~ - alone" >&2
  exit 1
  ;;
esac
password=${REDIS_PASSWORD:-$(cat "$REDIS_PASSWORD_FILE" 2>/dev/null || od -An -tx1 -N32 /dev/urandom | tr -d ' \n')}
printf '%s' "$password" >"$REDIS_PASSWORD_FILE.new"
chmod 444 "$REDIS_PASSWORD_FILE.new"
mv -f "$REDIS_PASSWORD_FILE.new" "$REDIS_PASSWORD_FILE"
