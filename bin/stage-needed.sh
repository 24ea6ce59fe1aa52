#!/bin/sh
# Tells whether a check that takes long has to be made again: whether what it covers has changed.
#
#   bin/stage-needed.sh FILE PATH …             0: yes; 1: no, and says so
#   bin/stage-needed.sh --passed FILE PATH …    it has passed: remember these contents
#
# FILE is kept in the repository. It holds one hash, of the names and contents of all files in
# PATH …, but what Python compiles. Paths are those below the repository.
set -eu
cd "$(dirname "$0")/.."

passed=""
if [ "$1" = --passed ]; then
    passed=yes
    shift
fi
file=$1
shift
for path in "$@"; do
    [ -e "$path" ] || {
        echo "$0: there is no $path." >&2
        exit 2
    }
done
now=$(find "$@" -type f ! -name '*.pyc' -exec sha256sum {} + | LC_ALL=C sort -k 2 | sha256sum)
now=${now%% *}
if [ "$passed" ]; then
    echo "$now" >"$file"
elif [ -f "$file" ] && [ "$(cat "$file")" = "$now" ]; then
    echo "Skipped: nothing that this covers has changed since it passed ($file)."
    exit 1
fi
