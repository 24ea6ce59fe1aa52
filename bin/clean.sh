#!/bin/sh
# Removes what builds, tests and linters leave behind; with --all the virtual environment too.
set -eu
cd "$(dirname "$0")/.."

case $#,${1:-} in
    0, | 1,--all) ;;
    *)
        echo "usage: $0 [--all]: removes build, dist and caches; with --all .venv too" >&2
        exit 2
        ;;
esac
rm -rf build .mypy_cache .ruff_cache .hypothesis .import_linter_cache .pytest_cache
rm -f .coverage .coverage.*
if [ -d dist ]; then
    # in a container it is mounted, and stays as an empty folder
    find dist -mindepth 1 -delete
    rmdir dist 2>/dev/null || true
fi
find . -path './.venv*' -prune -o -path ./.git -prune -o \
    \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
if [ "${1:-}" = --all ]; then
    rm -rf .venv
fi
