#!/bin/sh
# What a container runs: the command that it was given. The original's way to ask for a shell,
# `-c "/bin/bash bash"`, is understood.
set -eu
if [ "${1:-}" = -c ]; then
    exec /bin/bash
fi
exec "$@"
