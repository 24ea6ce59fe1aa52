#!/bin/sh
# Makes dist/runai/runai: a program that runs where neither Python nor anything else is installed.
#
#   bin/buildlinux.sh           makes it
#   bin/buildlinux.sh --pack    and packs it, as dist/runai-VERSION-linux-MACHINE.tar.xz
#
# It is built with the .venv that bin/setup.sh makes, and holds the torch of that: see RUNAI_TORCH
# there. RUNAI_VENV names another environment to build with. Takes 1 GB in TMPDIR meanwhile. See
# docs/building.md.
set -eu
cd "$(dirname "$0")/.."

pack=""
case ${1:-} in
    "") ;;
    --pack) pack=yes ;;
    *)
        echo "usage: $0 [--pack]" >&2
        exit 2
        ;;
esac
if [ -z "${RUNAI_VENV:-}" ]; then
    bin/setup.sh
fi
python=${RUNAI_VENV:-.venv}/bin/python
if ! "$python" -c 'import PyInstaller' 2>/dev/null; then
    "$python" -m pip install --quiet --disable-pip-version-check "pyinstaller>=6.22,<7"
fi
rm -rf dist/runai
# a folder of its own: others may write to a name in /tmp that is known beforehand
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
echo "Building dist/runai, which takes minutes …" >&2
"$python" -m PyInstaller --noconfirm --log-level ERROR \
    --workpath "$work" packaging/runai.spec
if [ "$pack" ]; then
    version=$("$python" -c 'import runai; print(runai.__version__)')
    packed=dist/runai-$version-linux-$(uname -m).tar.xz
    echo "Packing $packed …" >&2
    XZ_OPT="-T0 -6" tar -C dist -cJf "$packed" runai
fi
du -sh dist/runai
