"""The smallest complete client of RunAI: Python's standard library and nothing else.

    python client.py "a red circle on a blue background" circle.png [host port certificate.pem]

RUNAI_TOKEN holds the server's token, where it wants one. Copy it into your plugin. It speaks the
native protocol over a socket: says hello, asks for one picture, shows the progress, saves the PNG;
Ctrl-C cancels. docs/protocol.md lists all the messages; there are more fields than are used here,
and hardly one has to be sent.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKET_SIZE = 1024  # the same on both sides: see the server's --packet-size
END_OF_MESSAGE = bytes(PACKET_SIZE)


def connect(host: str, port: int, certificate: str = "") -> socket.socket:
    """To the server; inside TLS, if there is a copy of its certificate to know it by."""
    connection = socket.create_connection((host, port))
    if not certificate:
        return connection
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False  # who has the certificate's key is the server, wherever it is
    return context.wrap_socket(connection)


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """One JSON object: whole packets, the last one padded with NUL, then one of only NUL."""
    body = json.dumps(message).encode("ascii")
    padding = bytes(-len(body) % PACKET_SIZE)
    connection.sendall(body + padding + END_OF_MESSAGE)


def messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """What the server says, until it closes the connection."""
    body = bytearray()
    with connection.makefile("rb") as stream:
        # a buffered read returns a whole packet, however the network cuts the stream
        while len(packet := stream.read(PACKET_SIZE)) == PACKET_SIZE:
            if packet != END_OF_MESSAGE:
                body += packet
                continue
            yield json.loads(body.rstrip(b"\0"))
            body.clear()


def draw(connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request and follow it to its last answer: completed, failed or canceled."""
    token = os.environ.get("RUNAI_TOKEN")
    send(connection, {"type": "hello", "client": "client_example", "token": token})
    send(connection, request)
    cancel = {"type": "cancel", "id": request["id"]}
    signal.signal(signal.SIGINT, lambda *_: send(connection, cancel))  # your button goes here
    for answer in messages(connection):
        kind = answer.get("type")  # the greeting has none: it is for an older plugin
        if kind == "loading":
            print(f"loading {answer['model']}")
        elif kind == "progress":
            print(f"\rstep {answer['step']} of {answer['total']}", end="", flush=True)
        elif kind in ("completed", "failed", "canceled"):
            print()
            return answer
    raise ConnectionError("The server closed the connection.")


def main(
    prompt: str,
    path: str = "out.png",
    host: str = "localhost",
    port: str = "50006",
    certificate: str = "",
) -> int:
    request = {
        "type": "generate",
        "task": "txt2img",
        "id": "1",  # yours to choose; every answer to this request carries it
        "prompt": prompt,
        "num_inference_steps": 20,
    }
    try:
        connection = connect(host, int(port), certificate)
    except OSError as why:
        print(f"No server at {host}, port {port}: {why}. Start it: runai serve", file=sys.stderr)
        return 1
    with connection:
        answer = draw(connection, request)
    if answer["type"] == "failed":
        error = answer["error"]
        print(error["message"], error["hint"], file=sys.stderr)
    if answer["type"] != "completed":
        return 1
    picture = answer["images"][0]
    Path(path).write_bytes(base64.b64decode(picture["png"]))
    print(f"{path} (seed {picture['seed']})")
    return 0


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 6 or sys.argv[1] in ("-h", "--help"):
        sys.exit("Usage: client.py PROMPT [FILE [HOST [PORT [CERTIFICATE]]]]")
    sys.exit(main(*sys.argv[1:]))
