#!/bin/sh
# Proves that the packaged program does what the wheel does, and nothing that it must not do.
#
#   bin/test-binary.sh             builds dist/runai and tries it
#   bin/test-binary.sh FOLDER      tries the one that is there
#   bin/test-binary.sh --if-needed as the first, unless nothing has changed since it passed
#
# The program gets an environment of next to nothing, no network, and a disk that cannot be
# written, which takes root. It draws with every sampler, task, kind of model and file there is
# (tests/binary/drive.py), and so does the wheel that pip makes and installs, as in the container;
# each picture must be the same, bit by bit.
# Needs what testing needs (bin/setup.sh dev, or RUNAI_VENV), 5 GB in TMPDIR and as much memory.
set -eu
cd "$(dirname "$0")/.."
root=$PWD

covered="runai models.example packaging client_example tests/binary setup.cfg"
covered="$covered bin/buildlinux.sh bin/test-binary.sh"
needed() {
    # shellcheck disable=SC2086  # several paths
    bin/stage-needed.sh "$@" bin/passed-binary.sha256 $covered
}

folder=""
case ${1:-} in
    --if-needed)
        answer=0
        needed || answer=$?
        [ "$answer" != 1 ] || exit 0
        [ "$answer" = 0 ] || exit "$answer"
        ;;
    *) folder=${1:-} ;;
esac
if [ "$(id -u)" != 0 ] || ! unshare -n -m true; then
    echo "$0 needs root, to take the network and the disk away." >&2
    exit 1
fi
if [ -z "${RUNAI_VENV:-}" ]; then
    bin/setup.sh dev
fi
if [ -z "$folder" ]; then
    bin/buildlinux.sh
fi
program=$(cd "${folder:-dist/runai}" && pwd)/runai
python=$(cd "${RUNAI_VENV:-.venv}" && pwd)/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir "$work/models" "$work/binary" "$work/tmp"
PYTHONPATH=$root:$root/tests PYTHONDONTWRITEBYTECODE=1
# one thread: several wait for each other where the machine has other things to do
OMP_NUM_THREADS=1
export PYTHONPATH PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS

echo "Writing models …"
"$python" tests/binary/models.py "$work/models" 2>"$work/said" || {
    cat "$work/said"
    exit 1
}

echo "Drawing with $program …"
cat >"$work/alone.sh" <<'END'
set -eu
work=$1
shift
mount --bind "$work/models" "$work/models" # --allow-convert writes there, and the driver into
mount --bind "$work/binary" "$work/binary" # its own folder
mount -t tmpfs tmpfs "$work/tmp"
mount -o remount,bind,ro /
if touch "$work/written" 2>/dev/null; then
    echo "The disk can be written all the same." >&2
    exit 1
fi
TMPDIR=$work/tmp "$@"
find "$work/tmp" ! -type d >"$work/binary/left" # torch leaves an empty folder
END
unshare -n -m sh "$work/alone.sh" "$work" "$python" tests/binary/drive.py \
    "$work/models" "$work/binary" -- "$program"

echo "Drawing with the wheel …"
# from a copy: pip builds in the folder, and may find what was built there before
mkdir "$work/source" "$work/wheel"
cp -R runai models.example benchmarks setup.cfg setup.py pyproject.toml MANIFEST.in README.md \
    LICENSE "$work/source"
"$python" -m pip install --quiet --no-deps --target "$work/installed" "$work/source"
cp "$work/binary/seed" "$work/wheel"
rm -rf "$work/models/v1/full" # what was converted
(
    cd "$work" # where there is no runai/
    PYTHONPATH=$work/installed:$root/tests TMPDIR=$work/tmp "$python" \
        "$root/tests/binary/drive.py" "$work/models" "$work/wheel" -- "$python" -m runai
)

status=0
for file in "$work/wheel"/*.png "$work/wheel"/*.safetensors; do
    cmp "$file" "$work/binary/${file##*/}" || status=1
done
if [ -s "$work/binary/left" ]; then
    echo "It has left files behind:"
    cat "$work/binary/left"
    status=1
fi
if [ "$status" = 0 ]; then
    echo "All pictures are the same."
    [ -n "$folder" ] || needed --passed
fi
exit "$status"
