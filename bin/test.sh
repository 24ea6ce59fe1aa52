#!/bin/sh
# Sets everything up on a fresh machine and runs every check; arguments go to pytest.
# Ends with 0 only if all of them passed. Tests that this machine cannot run say so.
set -eu
cd "$(dirname "$0")/.."
bin/setup.sh dev
PATH="$PWD/.venv/bin:$PATH"
export PATH

failed=""
times=""

stage() {
    name=$1
    shift
    printf '\n== %s\n' "$name"
    begun=$(date +%s)
    "$@" || failed="$failed $name"
    times="$times$(printf '%5d s  %s' $(($(date +%s) - begun)) "$name")
"
}

tests() {
    coverage erase
    status=0
    coverage run -m pytest -ra --durations=10 "$@" || status=$?
    coverage combine --quiet
    coverage report || status=$?
    return "$status"
}

stage ruff-check ruff check .
stage ruff-format ruff format --check .
stage mypy mypy
stage lint-imports lint-imports
stage shellcheck shellcheck bin/*.sh .ci/run
stage hadolint hadolint Dockerfile
stage docs bin/docs.sh
stage tests tests "$@"
if [ $# -gt 0 ]; then
    printf '\nSkipped, since only some tests were asked for: krita, binary.\n'
elif [ "$(id -u)" -ne 0 ]; then
    printf '\nSkipped, since they need root: krita, binary.\n'
else
    stage krita bin/test-krita.sh --if-needed
    stage binary bin/test-binary.sh --if-needed
fi

printf '\n== times\n%s' "$times"
if [ -n "$failed" ]; then
    printf '\nFAILED:%s\n' "$failed"
    exit 1
fi
printf '\nAll passed. Tests that were skipped, and why, are listed above (SKIPPED).\n'
