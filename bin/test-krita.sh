#!/bin/sh
# Tests the Krita plugin in a real Krita, on a display that nobody sees.
#
#   bin/test-krita.sh               installs Krita and Xvfb if they are missing (Debian, as root)
#   bin/test-krita.sh --if-changed  only if what it tests is not what it was when it last passed
#   bin/test-krita.sh --shots       also makes the screenshots in docs/
#
# What passed is remembered in tests/krita/passed.sha256: commit that with what it is about.
# RUNAI_VENV: the virtual environment to use instead of .venv.
set -eu
cd "$(dirname "$0")/.."
python=${RUNAI_VENV:-.venv}/bin/python
passed=tests/krita/passed.sha256

# the plugin, the driver and its tests, and the rooms of the server that they speak to
digest() {
    find bin/test-krita.sh client_example/krita tests/krita \
        runai/transports runai/wire runai/schema \
        -type f \( -name '*.py' -o -name '*.sh' -o -name '*.desktop' \) -print |
        LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d ' ' -f 1
}

install_krita() {
    if command -v krita >/dev/null && command -v Xvfb >/dev/null &&
        /usr/bin/python3 -c 'import PyQt5.QtWidgets' 2>/dev/null; then
        return
    fi
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "Krita, Xvfb and PyQt5 are missing: on Debian and Ubuntu, install" \
            "krita, xvfb and python3-pyqt5." >&2
        exit 1
    fi
    echo "Installing Krita and Xvfb (once) …" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        krita xvfb python3-pyqt5 >/dev/null
}

shots=""
case ${1:-} in
    "") ;;
    --shots) shots=yes ;;
    --if-changed)
        if [ -f "$passed" ] && [ "$(cat "$passed")" = "$(digest)" ]; then
            echo "Skipped: nothing that this tests has changed since it passed ($passed)."
            exit 0
        fi
        ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac

install_krita
tested=$(digest)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
if ! RUNAI_IN_KRITA=$out RUNAI_KRITA_SHOTS=$shots "$python" -m pytest -ra tests/krita; then
    kept=${TMPDIR:-/tmp}/runai-krita
    rm -rf "$kept" && cp -R "$out" "$kept"
    echo "What Krita showed and reported is in $kept." >&2
    exit 1
fi
if [ -n "$shots" ]; then
    cp "$out"/krita-*.png docs/
fi
echo "$tested" >"$passed"
