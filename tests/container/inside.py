"""What is tried in a container, given its command and its health check as JSON.

Nothing but /tmp can be written; the server becomes healthy, draws, and ends when it is told to.
The last line that is printed is the hash of the picture.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 120.0
DRAWN = Path("/tmp/drawn.png")
ASKED = ("generate", "a red circle", "--seed", "7", "--host", "localhost", "-o", str(DRAWN))


def main() -> None:
    command, healthy = json.loads(sys.argv[1])
    for folder in ("/", "/app", "/opt/venv", "/models", "/home/runai"):
        try:
            Path(folder, "written").write_text("")
        except OSError:
            continue
        raise AssertionError(f"{folder} can be written")
    server = subprocess.Popen(command)
    until = time.monotonic() + PATIENCE_S
    while subprocess.run(healthy, capture_output=True).returncode:
        assert server.poll() is None and time.monotonic() < until, "it is not healthy"
        time.sleep(0.5)
    subprocess.run([healthy[0], *ASKED], check=True)
    server.terminate()
    assert server.wait(PATIENCE_S) == 0, server.returncode
    print(hashlib.sha256(DRAWN.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
