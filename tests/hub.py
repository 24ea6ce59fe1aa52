"""A stand-in for the hub: a real HTTP server on loopback with the few answers that are asked for.

Large files are handed over by a redirect to another host name, as the hub does, with the
same port behind it. `cut` is how many bytes the server still sends of files before it
hangs up in the middle; None: it never does.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

COMMIT = "c" * 40
FLOOD_MIB = 64
LARGE = 5000  # from here on a file is "large"


class Asked(NamedTuple):
    path: str
    host: str
    range: str | None
    token: str | None
    agent: str


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a mapping from file names to contents."""

    daemon_threads = True

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.repositories = repositories
        self.gated: set[str] = set()
        self.cut: int | None = None
        self.keeps_cutting = False  # at the same place each time
        self.ranges = True
        self.spoiled: set[str] = set()
        self.listing: bytes | None = None  # sent as what any repository holds
        self.flooding: set[str] = set()
        self.cut_off = threading.Event()  # a client did not want any more of a flood
        self.asked: list[Asked] = []
        self.stalled = threading.Event()  # the server has stopped in the middle of a file
        self._go = threading.Event()
        self._go.set()

    def stall(self) -> None:
        """Send half of the next large file and then nothing, until `go_on`."""
        self._go.clear()

    def go_on(self) -> None:
        self._go.set()

    def hold(self) -> bool:
        """Whether to stop in the middle."""
        return not self._go.is_set()

    def wait(self) -> None:
        self.stalled.set()
        self._go.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def files_asked(self) -> list[str]:
        return [found[1] for row in self.asked if (found := re.search("/cdn/.*?/(.*)", row.path))]


class Answering(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        said = self.headers
        self.server.asked.append(
            Asked(self.path, said["Host"], said["Range"], said["Authorization"], said["User-Agent"])
        )
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._describe(found[1], found[2])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._redirect(*found.groups())
        elif found := re.fullmatch(r"/cdn/([^/]+--[^/]+)/(.+)", path):
            self._send(found[1].replace("--", "/"), found[2])
        else:
            self._answer(404)

    def _describe(self, repo: str, revision: str | None) -> None:
        files = self.server.repositories.get(repo)
        if self.server.listing is not None:
            return self._answer(200, {}, self.server.listing)
        if files is None:  # what the hub says to somebody it does not know
            return self._answer(401, {"X-Error-Code": "RepoNotFound"})
        if revision not in (None, "main", COMMIT):
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = [_described(name, content) for name, content in files.items()]
        body = {"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}
        return self._answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _redirect(self, repo: str, commit: str, name: str) -> None:
        assert commit == COMMIT
        if repo in self.server.gated:
            return self._answer(403, {"X-Error-Code": "GatedRepo"})
        elsewhere = f"http://localhost:{self.server.server_port}"
        host = elsewhere if len(self.server.repositories[repo][name]) >= LARGE else self.server.url
        return self._answer(302, {"Location": f"{host}/cdn/{repo.replace('/', '--')}/{name}"})

    def _send(self, repo: str, name: str) -> None:
        content = self.server.repositories[repo][name]
        if name in self.server.spoiled:
            content = bytes(len(content))
        found = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(found[1]) if found and self.server.ranges else 0
        partial = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        rest = content[start:]
        cut = self.server.cut
        if name in self.server.flooding:
            self._flood()
        elif self.server.hold() and len(content) >= LARGE:
            self._answer(200, {}, rest, sent=len(rest) // 2)
            self.wfile.flush()
            self.server.wait()
            self.close_connection = True
        elif cut is not None and len(content) >= LARGE:
            self.server.cut = cut if self.server.keeps_cutting else 0
            self._answer(206 if start else 200, partial if start else {}, rest, sent=cut)
            self.close_connection = True
        else:
            self._answer(206 if start else 200, partial if start else {}, rest)

    def _flood(self) -> None:
        """A body of which no end is told."""
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(FLOOD_MIB):
                self.wfile.write(bytes(2**20))
        except OSError:
            self.server.cut_off.set()

    def _answer(
        self, code: int, headers: Mapping[str, str] = {}, body: bytes = b"", sent: int | None = None
    ) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _described(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    row: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
    if len(content) >= LARGE:
        digest = hashlib.sha256(content).hexdigest()
        row["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
    return row


@contextmanager
def serving(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    with Hub(repositories) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
