"""What a client that is in says, and what it is answered: messages become calls on its session.

Rules: a message is read and translated once, here. What is wrong with one is its answer, and the
next one is heard. What is said here is posted to the session, so that it keeps its place among
the events of jobs. Knows no sockets and no threads; who may come in is the connection's to find.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

from runai.errors import RunAIError
from runai.jobs.service import Service
from runai.jobs.session import Session
from runai.schema import codec
from runai.schema.dialects import Reply, Spoken, native, reply_to, understand
from runai.schema.events import ErrorBody, Failed
from runai.schema.requests import (
    Cancel,
    Command,
    Convert,
    GetStatus,
    Hello,
    ListModels,
    Received,
)

# read one after the other: while it is unpacked, a message takes several times its size
ONE_LARGE, LARGE_BYTES = threading.Lock(), 2**20
log = logging.getLogger(__name__)


class Conversation:
    """With one client. `on_observer`: it says it only looks on; `on_named`: it can come back."""

    def __init__(
        self,
        session: Session,
        service: Service,
        max_message_bytes: int,
        *,
        on_observer: Callable[[], None],
        on_named: Callable[[], None],
    ) -> None:
        self._session = session
        self._service = service
        self._max_message_bytes = max_message_bytes
        self._on_observer = on_observer
        self._on_named = on_named

    def hear(self, body: bytes) -> None:
        """Do what a message asks for, or say why not. Blocks while too many answers are unread."""
        message: dict[str, Any] = {}
        reply: Reply = native.REPLY
        spoken: Spoken | None = None
        try:
            with ONE_LARGE if len(body) > LARGE_BYTES else contextlib.nullcontext():
                message = codec.decode(body, self._service.limits.max_json_depth)
                reply = reply_to(message)
                spoken = understand(message)
            self._obey(spoken.command, spoken.reply)
        except RunAIError as error:
            if spoken is None:
                self._session.refused(error)
            self._fail(error, message, reply)
        except Exception as fault:  # a fault of ours: this message's failure, not its client's end
            log.exception("A message could not be handled.")
            ours = RunAIError(f"The message could not be handled: {type(fault).__name__}.")
            self._fail(ours, message, reply)

    def _obey(self, command: Command, reply: Reply) -> None:
        if isinstance(command, Hello):
            self._welcome(command, reply)
        elif isinstance(command, Received):
            self._session.confirm(command.id)
        elif isinstance(command, Cancel):
            # one that is not open (any more) has had, or will have, its last answer
            self._session.cancel(command.id)
        elif isinstance(command, Convert):
            self._service.convert(command, functools.partial(self._session.post, tag=reply))
        elif isinstance(command, ListModels):
            self._session.post(self._service.models(self._session), reply)
        elif isinstance(command, GetStatus):
            self._session.post(self._service.status(), reply)
        else:
            self._session.submit(command, reply)

    def _welcome(self, hello: Hello, reply: Reply) -> None:
        log.debug("%s is %s.", self._session.name, hello.client or "a client without a name")
        if hello.observer:
            self._on_observer()
        answer = self._service.hello(self._max_message_bytes)
        if hello.session is None or not self._service.resume_s:
            self._session.post(answer, reply)
            return
        self._session.resume(hello.session, answer, reply)
        self._on_named()

    def refuse(self, error: RunAIError) -> None:
        """Say what is wrong with what was no message."""
        self._fail(error, {}, native.REPLY)

    def _fail(self, error: RunAIError, message: dict[str, Any], reply: Reply) -> None:
        said = codec.id_of(message)
        if said is not None and self._session.is_open(said):
            said = None  # it would read as the last answer of the request that has this id
        failed = Failed(id=said, error=ErrorBody.of(error))
        self._session.post(failed, reply)
