#!/bin/sh
# Makes .venv with the package and what it needs; does nothing when that is done already.
#
#   bin/setup.sh        to run
#   bin/setup.sh dev    to run and to test
#
# RUNAI_PYTHON: the Python to use (3.11 or newer); a .venv of another version is made anew.
# RUNAI_TORCH: what to install as torch, in pip's words, say "torch==2.13.0 --index-url URL";
# without it a machine with an NVIDIA GPU gets the newest torch, another one torch==2.13.0: on
# x86-64 Linux PyTorch's build for processors, if its index answers, which lacks gigabytes of
# NVIDIA's libraries. A torch that is installed is kept.
set -eu
cd "$(dirname "$0")/.."

want=${1:-run}
stamp=.venv/runai-stamp

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${RUNAI_PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "RunAI needs Python 3.11 or newer, and ${RUNAI_PYTHON:-python3} is not." \
        "Install one, or name it: RUNAI_PYTHON=/path/to/python3.11 $0" >&2
    return 1
}

version() {
    "$1" -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null
}

venv_fits() {
    [ -x .venv/bin/python ] && new_enough .venv/bin/python || return 1
    [ -z "${RUNAI_PYTHON:-}" ] || [ "$(version "$RUNAI_PYTHON")" = "$(version .venv/bin/python)" ]
}

state() {
    { cat setup.cfg pyproject.toml bin/setup.sh && echo "${RUNAI_TORCH:-}"; } | cksum
}

is_done() {
    [ -x .venv/bin/runai ] && [ -f "$stamp" ] && venv_fits || return 1
    [ "$(cat "$stamp")" = "dev $(state)" ] || [ "$(cat "$stamp")" = "$want $(state)" ]
}

pip_install() {
    .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check "$@"
}

cpu_builds=https://download.pytorch.org/whl/cpu

answers() {
    .venv/bin/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' "$1" \
        2>/dev/null
}

torch_to_install() {
    if [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; then
        echo "torch"
    elif [ "$(uname -sm)" = "Linux x86_64" ] && [ -z "${PIP_NO_INDEX:-}" ] &&
        answers "$cpu_builds/torch/"; then
        echo "torch==2.13.0 --index-url $cpu_builds"
    else
        echo "torch==2.13.0"
    fi
}

install_torch() {
    if .venv/bin/python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))'; then
        return
    fi
    torch=${RUNAI_TORCH:-$(torch_to_install)}
    echo "Installing $torch: the largest part, it may take minutes (once) …" >&2
    # shellcheck disable=SC2086  # several words are allowed
    pip_install $torch
}

if is_done; then
    exit 0
fi
if ! venv_fits; then
    python=$(find_python)
    echo "Making .venv with $("$python" --version) …" >&2
    "$python" -m venv --clear .venv || {
        echo "The venv module is missing: on Debian and Ubuntu, install python3-venv." >&2
        exit 1
    }
fi
rm -f "$stamp"
install_torch
echo "Installing RunAI and what else it needs …" >&2
if [ "$want" = dev ]; then
    pip_install --editable ".[dev,docs]"
    # what tests compare with; without the rest that these ask for, which is large
    pip_install --no-deps clip-anytorch==2.6.0 compel==2.5.1 pyparsing \
        invisible-watermark==0.2.0 opencv-python-headless PyWavelets
else
    pip_install --editable .
fi
echo "$want $(state)" >"$stamp"
