#!/bin/sh
# Installs RunAI and what it draws with; run it again at any time, it does what is missing.
#
#   bin/install.sh                 asks before it fetches anything large
#   bin/install.sh --yes           fetches the base models without asking
#   bin/install.sh --models NAMES  fetches these instead, as in "base-v1 base-xl"
#   bin/install.sh --no-models     fetches none
#   bin/install.sh --offline DIR   takes all packages from wheels in DIR and uses no network
#
# The package goes to .venv beside this folder, models to ~/stablediffusion or $BASE_DIR.
# RUNAI_PYTHON and RUNAI_TORCH: see bin/setup.sh.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
runai=$root/.venv/bin/runai

# name, size in GB, what it is
offered() {
    cat <<END
base-v1          2.1  Stable Diffusion 1.5
base-v1-inpaint  2.1  Stable Diffusion 1.5 for inpainting
base-v2          2.6  Stable Diffusion 2.1
base-xl          6.9  Stable Diffusion XL
END
}

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
}

wrong() {
    echo "$1 See $0 --help." >&2
    exit 2
}

names="base-v1 base-v1-inpaint base-v2"
answer=ask
wheels=""
while [ $# -gt 0 ]; do
    case $1 in
        --yes) answer=yes ;;
        --no-models) answer=no ;;
        --models)
            [ $# -gt 1 ] || wrong "--models wants names."
            names=$2 answer=yes
            shift
            ;;
        --offline)
            [ $# -gt 1 ] && [ -d "$2" ] || wrong "--offline wants a folder of wheels."
            wheels=$(cd "$2" && pwd)
            answer=no
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) wrong "There is no option $1." ;;
    esac
    shift
done
for name in $names; do
    offered | grep -q "^$name " || wrong "There is no base model $name."
done

base=${BASE_DIR:-${HOME:?is not set: say where models go with BASE_DIR}/stablediffusion}

# the offered models among $names, one a line
chosen() {
    for name in $names; do
        offered | grep "^$name "
    done
}

total() {
    chosen | awk '{ sum += $2 } END { printf "%.1f", sum }'
}

show_plan() {
    if [ -f "$root/.venv/runai-stamp" ]; then
        echo "RunAI is installed already; what is missing or has changed is added in"
    else
        echo "RunAI will be installed in"
    fi
    echo "  $root/.venv    the package and what it needs, PyTorch above all: 1.5 GB and more"
    echo "  $base    the folder of models:"
    echo "    the CLIP vocabulary, 1.5 MB, which models of a single file need"
    if [ "$answer" != no ]; then
        chosen | sed 's/^\([^ ]*\) *\([^ ]*\) *\(.*\)/    \3 (\1), \2 GB/'
    fi
}

ask() {
    if [ "$answer" = ask ]; then
        answer=no
        if [ -t 0 ]; then
            printf 'Fetch the base models, %s GB? [y/N] ' "$(total)"
            read -r reply || reply=""
            case $reply in [yY]*) answer=yes ;; esac
        fi
    fi
}

set_up() {
    "$root/bin/setup.sh" && return
    if [ -n "$wheels" ] && [ -x "$root/.venv/bin/python" ]; then
        echo "Wheels are made for one version of Python each, and this is" \
            "$("$root/.venv/bin/python" --version): name another with RUNAI_PYTHON, or fetch" \
            "into $wheels what is missing there. docs/getting-started.md tells how." >&2
    fi
    exit 1
}

failed=""
get() {
    "$runai" models get "$@" --model-base-path "$base" || failed="$failed $1"
}

get_vocabulary() {
    if [ -n "$wheels" ]; then
        get vocabulary --wheels "$wheels"
    else
        get vocabulary
    fi
}

show_plan
ask
if [ -n "$wheels" ]; then
    PIP_NO_INDEX=1 PIP_FIND_LINKS=$wheels
    export PIP_NO_INDEX PIP_FIND_LINKS
fi
set_up
mkdir -p "$base/v1" "$base/v2" "$base/xl" "$base/Lora" "$base/VAE" "$base/embeddings"
get_vocabulary
if [ "$answer" = yes ]; then
    for name in $names; do
        get "$name"
    done
else
    echo "No base models were fetched. Later: $runai models get base-v1"
fi

if [ -n "$failed" ]; then
    echo "Could not be fetched:$failed. Run this again: it goes on where it stopped." >&2
    echo "All else is installed. Start the server with: $runai" >&2
    exit 1
fi
echo "Installed. Start the server with: $runai"
