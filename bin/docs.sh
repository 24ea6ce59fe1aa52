#!/bin/sh
# Makes web pages of README.md, docs/ and the other READMEs: build/docs/docs/README.html.
# Fails on any warning: a link or an anchor that leads nowhere, a page that nobody lists. Uses no network.
set -eu
cd "$(dirname "$0")/.."

if ! command -v sphinx-build >/dev/null; then
    bin/setup.sh dev
    PATH="$PWD/.venv/bin:$PATH"
fi
sphinx-build --fresh-env --write-all --quiet --fail-on-warning --nitpicky -c docs -d build/doctrees . build/docs
echo "build/docs/docs/README.html"
