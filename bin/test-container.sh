#!/bin/sh
# Does what the Dockerfile says without Docker, as far as that goes, and tries what comes of it as
# docker-compose.yml has it run: see tests/container/build.py. The picture that is drawn there must
# be the one that is drawn here, bit by bit.
#
#   bin/test-container.sh [BASE [SHOWN …]]
#
# BASE: the root of a plain Debian 12 with Python, which stands in for python:3.11-slim; without it
# debootstrap makes one. SHOWN: what of this machine is to be there, such as pip's settings.
# Needs root, git, what testing needs (bin/setup.sh dev, or RUNAI_VENV), and 8 GB in TMPDIR.
set -eu
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
    echo "$0 needs root, to change roots." >&2
    exit 1
fi
python=$(cd "${RUNAI_VENV:-.venv}" && pwd)/bin/python
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' INT TERM
base=${1:-}
[ $# = 0 ] || shift
if [ -z "$base" ]; then
    base=$work/base
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$base"
fi
unshare --mount "$python" tests/container/build.py "$base" "$work" "$@" >"$work/said"
OMP_NUM_THREADS=1 "$python" -m runai generate "a red circle" --seed 7 --port 1 -o "$work/here.png"
here=$(sha256sum "$work/here.png")
if [ "$(tail -n 1 "$work/said")" != "${here%% *}" ]; then
    echo "The container draws another picture." >&2
    exit 1
fi
echo "The container draws the same picture."
