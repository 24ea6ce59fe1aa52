"""What is known of the server, and of what is being drawn: all that the dock shows.

`hear` takes each event of the connection and is the only place where this changes, but for
`add`, `complain` and `forgive`, which are the user's doing. Pure.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple

from .asking import Limits
from .conversation import LAST

SAME_VERSION = "Use a plugin and a server of the same version."


class Trouble(NamedTuple):
    message: str
    hint: str


class Picture(NamedTuple):
    png: bytes
    seed: int


class Finished(NamedTuple):
    """A request has had its last answer; `pictures` is empty unless it went well."""

    request_id: str
    pictures: list[Picture]


@dataclass
class Job:
    """A request without a last answer. `total` 0: nothing has been drawn yet."""

    doing: str = "Waiting"
    step: int = 0
    total: int = 0
    seconds_left: float | None = None


@dataclass
class Board:
    """`state`: gone, starting, loading or ready; `says`: the same in words."""

    state: str = "gone"
    says: str = "Not connected."
    limits: Limits | None = None
    models: list[str] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)  # in the order of asking
    preview: bytes | None = None
    trouble: Trouble | None = None
    notes: list[str] = field(default_factory=list)
    last_seed: int | None = None

    def add(self, request_id: str) -> None:
        self.jobs[request_id] = Job()
        self.forgive()

    def complain(self, message: str, hint: str) -> None:
        self.trouble = Trouble(message, hint)

    def forgive(self) -> None:
        self.trouble = None
        self.notes = []

    def current(self) -> Job | None:
        """The request that is being drawn, else the one that has waited longest."""
        begun = [job for job in self.jobs.values() if job.total]
        return next(iter(begun or self.jobs.values()), None)

    def hear(self, message: dict[str, Any]) -> Finished | None:
        """Kinds that are not known, say of a newer server, change nothing."""
        kind = message.get("type")
        react = _REACTIONS.get(str(kind))
        try:
            return react(self, message) if react is not None else None
        except (KeyError, TypeError, ValueError):
            self.complain("The server said what is not understood here.", SAME_VERSION)
            return self._end(str(message.get("id")), []) if kind in LAST else None

    # --- one for each kind of message --------------------------------------------------

    def _connected(self, message: dict[str, Any]) -> None:
        self._is("starting", "Connected. The server is getting ready.")

    def _gone(self, message: dict[str, Any]) -> None:
        self._is("starting" if message["starting"] else "gone", message["message"])
        self.limits = None
        self.models = []

    def _hello(self, message: dict[str, Any]) -> None:
        bounds = message["capabilities"]
        self.limits = Limits(*(bounds[name] for name in Limits._fields))

    def _models(self, message: dict[str, Any]) -> None:
        # it is answered when the engine is there
        self.models = [
            found["name"] for found in message["models"] if found.get("kind", "model") == "model"
        ]
        self._is("ready", "Ready.")

    def _accepted(self, message: dict[str, Any]) -> None:
        job = self.jobs.get(message["id"])
        if job is not None:
            ahead = message["position"]
            job.doing = f"Waiting for {ahead} before it" if ahead else "Waiting"

    def _loading(self, message: dict[str, Any]) -> None:
        job = self.jobs.get(message["id"])
        if job is not None:
            job.doing = f"Loading {message['model']}"
            self._is("loading", f"Loading {message['model']}.")

    def _progress(self, message: dict[str, Any]) -> None:
        job = self.jobs.get(message["id"])
        if job is not None:
            job.doing = "Drawing"
            job.step, job.total = message["step"], message["total"]
            job.seconds_left = message.get("seconds_left")
            self._is("ready", "Ready.")

    def _preview(self, message: dict[str, Any]) -> None:
        if message["id"] in self.jobs:
            self.preview = base64.b64decode(message["png"])

    def _completed(self, message: dict[str, Any]) -> Finished:
        pictures = [Picture(base64.b64decode(p["png"]), p["seed"]) for p in message["images"]]
        if pictures:
            self.preview, self.last_seed = pictures[-1]
        self.notes = list(message.get("notes", []))
        return self._end(message["id"], pictures)

    def _failed(self, message: dict[str, Any]) -> Finished:
        error = message["error"]
        self.complain(error["message"], error.get("hint", ""))
        return self._end(message.get("id", ""), [])

    def _canceled(self, message: dict[str, Any]) -> Finished:
        return self._end(message["id"], [])

    def _end(self, request_id: str, pictures: list[Picture]) -> Finished:
        self.jobs.pop(request_id, None)
        if self.state == "loading" and not self.jobs:
            self._is("ready", "Ready.")  # it was not needed any more
        if not self.jobs and not pictures:
            self.preview = None
        return Finished(request_id, pictures)

    def _is(self, state: str, says: str) -> None:
        self.state, self.says = state, says


_REACTIONS: dict[str, Callable[[Board, dict[str, Any]], Finished | None]] = {
    "connected": Board._connected,
    "gone": Board._gone,
    "hello": Board._hello,
    "models": Board._models,
    "accepted": Board._accepted,
    "loading": Board._loading,
    "progress": Board._progress,
    "preview": Board._preview,
    "completed": Board._completed,
    "failed": Board._failed,
    "canceled": Board._canceled,
}
