#!/bin/sh
# Tests the Krita plugin in a real Krita, on a display that nobody sees.
#
#   bin/test-krita.sh               installs Krita and Xvfb if they are missing (Debian, as root)
#   bin/test-krita.sh --if-needed   only if what it tests is not what it was when it last passed
#   bin/test-krita.sh --shots       also makes the screenshots in docs/
#
# What passed is remembered in bin/passed-krita.sha256: commit that with what it is about.
# RUNAI_VENV: the virtual environment to use instead of .venv.
set -eu
cd "$(dirname "$0")/.."
python=${RUNAI_VENV:-.venv}/bin/python

# the plugin, the driver and its tests, and the rooms of the server that they speak to
covered="bin/test-krita.sh client_example/krita tests/krita runai/transports runai/wire runai/schema"
needed() {
    # shellcheck disable=SC2086  # several paths
    bin/stage-needed.sh "$@" bin/passed-krita.sha256 $covered
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
    --if-needed) needed || exit 0 ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac

install_krita
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
needed --passed
