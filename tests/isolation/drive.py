"""Starts a server as a user would, draws through it, and stops it: run as a program.

    python drive.py MODELS [--marks FILE] [-- PREFIX …]

PREFIX goes before the server's command (strace, say). In a fresh network namespace the
loopback device is down: it is brought up first. MARKS gets the time at which the server had
drawn its first picture, and the time before it was told to stop, one a line.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from runai.client import Client
from runai.schema.codec import parse_task
from runai.schema.events import Completed

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        wanted = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, SIOCGIFFLAGS, wanted))[1]
        if not flags & IFF_UP:
            fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def start(prefix: list[str], models: str) -> tuple[subprocess.Popen[str], int]:
    command = [*prefix, sys.executable, "-m", "runai", "serve", "--port", "0", "--keep-alive"]
    command += ["--model-base-path", models, "--dtype", "fp32"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        found = re.search(r"port (\d+)", line)
        if found:
            return server, int(found[1])
    raise SystemExit(f"the server did not listen; it ended with {server.wait()}")


def draw(client: Client, number: int, **fields: object) -> None:
    request = parse_task({"id": str(number), "seed": number, "num_inference_steps": 3, **fields})
    *_, last = client.generate(request)
    assert isinstance(last, Completed), last
    assert Image.open(io.BytesIO(last.images[0].png)).size == (64, 64)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models")
    parser.add_argument("--marks", type=Path)
    words, _, prefix = " ".join(sys.argv[1:]).partition(" -- ")
    args = parser.parse_args(words.split())
    bring_loopback_up()
    server, port = start(prefix.split(), args.models)
    try:
        with Client("127.0.0.1", port, timeout_s=60) as client:
            marks = []
            for number in range(4):
                draw(client, number, task="txt2img", prompt="a b c", preview=True)
                marks.append(time.time())
            client.models()
            client.status()
            marks.append(time.time())
        print("drawn")
    finally:
        # a tracer in front passes the signal on only to itself: the server is told directly
        [child] = children(server.pid) or [server.pid]
        os.kill(child, signal.SIGTERM)
        code = server.wait(timeout=60)
    if args.marks:
        args.marks.write_text(f"{marks[0]}\n{marks[-1]}\n")
    print("ended with", code)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


if __name__ == "__main__":
    main()
