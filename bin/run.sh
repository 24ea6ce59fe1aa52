#!/bin/sh
# Draws a picture: bin/run.sh "a red circle on a blue background" [options of runai generate]
# Sets everything up the first time. The picture is out.png here, or where -o says.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)

if [ $# -eq 0 ]; then
    echo "usage: bin/run.sh \"a red circle on a blue background\" [-o out.png] [--seed 1] …" >&2
    exit 2
fi
"$root/bin/setup.sh"
exec "$root/.venv/bin/runai" generate "$@"
