"""One connection's bytes, both ways, without any I/O.

Theory of operation. What came in and is not understood yet lies in one buffer that always
starts at a packet boundary: at the start of a message, or, while an oversized one is thrown
away, at some packet inside it. `next_event` looks at what the buffer holds next (`_look`: one
of `What`), takes it out (`_take`), and moves along TRANSITIONS; None means that more bytes are
needed. Every stream ends with exactly one of Quit, Closed and CutShort; after it, nothing.

Finding the EOM never walks packet by packet. A proper body holds no NUL, so the first NUL is
in the padding or is the EOM's own first byte: one memchr finds it, and the EOM can only start
at the next packet boundary. A body with a NUL inside (which JSON cannot have) is skipped over
in the same way, one boundary per NUL, and reaches the reader whole. `_scanned` remembers how far
there is nothing to find, so bytes that trickle in are looked at once.

Events do not depend on how the bytes were cut: a message is called too large when it is surely
so, and how much must be there to be sure depends on its length alone.

The two directions share no state: one thread may receive while another sends.
Does not know JSON, time-outs, or when it is polite to send: that is the transport's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from runai.errors import MessageTooLarge, RunAIError, Truncated
from runai.wire.packets import CANCEL, NUL, QUIT, packet_of, pad

DEFAULT_PACKET_SIZE = 1024
DEFAULT_MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class Role(Enum):
    """Which side of the connection this is. Only a client sends control packets."""

    CLIENT = auto()
    SERVER = auto()


@dataclass(frozen=True)
class Message:
    """A whole body, its padding removed; may be empty."""

    body: bytes


@dataclass(frozen=True)
class Cancel:
    """The client wants all its requests canceled."""


@dataclass(frozen=True)
class Quit:
    """The client says that it leaves. The stream's last event."""


@dataclass(frozen=True)
class Closed:
    """The peer closed between two messages. The stream's last event."""


@dataclass(frozen=True)
class TooLarge:
    """A message past the limit is being thrown away; those after it are read as ever."""

    max_message_bytes: int

    @property
    def error(self) -> RunAIError:
        return MessageTooLarge(f"A message may have at most {self.max_message_bytes} bytes.")


@dataclass(frozen=True)
class CutShort:
    """The peer closed in the middle of a message or packet. The stream's last event."""

    @property
    def error(self) -> RunAIError:
        return Truncated("The stream ended in the middle of a message.")


WireEvent = Message | Cancel | Quit | Closed | TooLarge | CutShort


class State(Enum):
    BETWEEN = auto()  # outside any message
    INSIDE = auto()
    SKIPPING = auto()  # inside a message that is too large
    ENDED = auto()


class What(Enum):
    """What the buffer holds next."""

    BODY = auto()  # the first packet of a message, or its EOM
    CANCEL = auto()
    QUIT = auto()
    EOM = auto()
    EXCESS = auto()  # surely more than a message may have
    EOF = auto()


TRANSITIONS = {
    (State.BETWEEN, What.BODY): State.INSIDE,
    (State.BETWEEN, What.CANCEL): State.BETWEEN,
    (State.BETWEEN, What.QUIT): State.ENDED,
    (State.BETWEEN, What.EOF): State.ENDED,
    (State.INSIDE, What.EOM): State.BETWEEN,
    (State.INSIDE, What.EXCESS): State.SKIPPING,
    (State.INSIDE, What.EOF): State.ENDED,
    (State.SKIPPING, What.EOM): State.BETWEEN,
    (State.SKIPPING, What.EOF): State.ENDED,
}


class Connection:
    """See the module's theory of operation. Sizes are in bytes, padding not counted.

    `max_message_bytes` may be changed between two events.
    """

    def __init__(
        self,
        role: Role,
        packet_size: int = DEFAULT_PACKET_SIZE,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        self._role = role
        self._size = packet_size
        self.max_message_bytes = max_message_bytes
        self._eom = packet_of(NUL, packet_size)
        controls = {
            packet_of(QUIT, packet_size): What.QUIT,
            packet_of(CANCEL, packet_size): What.CANCEL,
        }
        self._controls = controls if role is Role.SERVER else {}
        self._state = State.BETWEEN
        self._buffer = bytearray()
        self._scanned = 0
        self._eof = False
        self._to_send: list[bytes] = []

    # Receiving.

    def receive_data(self, data: bytes) -> None:
        """Bytes came; then call `next_event` until it gives None."""
        if self._state is not State.ENDED:
            self._buffer += data

    def receive_eof(self) -> None:
        """The peer will send no more; then call `next_event` until it gives None."""
        self._eof = True

    @property
    def is_midway(self) -> bool:
        """Whether a part of a message or packet has come, and its rest not yet."""
        return self._state in (State.INSIDE, State.SKIPPING) or bool(self._buffer)

    def next_event(self) -> WireEvent | None:
        """The next thing that came, or None if that needs more bytes."""
        while (what := self._look()) is not None:
            event = self._take(what)
            self._state = TRANSITIONS[self._state, what]
            if event is not None:
                return event
        return None

    def _look(self) -> What | None:
        if self._state is State.ENDED:
            return None
        if self._state is State.BETWEEN:
            if len(self._buffer) >= self._size:
                return self._controls.get(bytes(self._buffer[: self._size]), What.BODY)
        elif self._find_eom():
            return What.EOM
        elif self._state is State.INSIDE and self._surely_too_large():
            return What.EXCESS
        return What.EOF if self._eof else None

    def _find_eom(self) -> bool:
        """Whether the EOM is there; then it starts at `_scanned`."""
        while (nul := self._buffer.find(NUL, self._scanned)) >= 0:
            start = nul + -nul % self._size
            end = start + self._size
            if len(self._buffer) < end:
                self._scanned = nul
                break
            if self._buffer[start:end] == self._eom:
                self._scanned = start
                return True
            self._scanned = end
        else:
            self._scanned = len(self._buffer)
        if self._state is State.SKIPPING:
            self._drop(self._scanned - self._scanned % self._size)
        return False

    def _surely_too_large(self) -> bool:
        # were all past the limit NUL, two packets of it would hold an EOM
        return len(self._buffer) > self.max_message_bytes + 2 * self._size

    def _take(self, what: What) -> WireEvent | None:
        if what is What.EOM:
            return self._take_message()
        if what is What.EOF:
            clean = self._state is State.BETWEEN and not self._buffer
            self._buffer.clear()
            return Closed() if clean else CutShort()
        if what is What.QUIT:
            self._buffer.clear()
            return Quit()
        if what is What.CANCEL:
            self._drop(self._size)
            return Cancel()
        return TooLarge(self.max_message_bytes) if what is What.EXCESS else None

    def _take_message(self) -> WireEvent | None:
        eom = self._scanned
        last = max(eom - self._size, 0)  # only the last packet can have padding
        end = last + len(self._buffer[last:eom].rstrip(NUL))
        event: WireEvent | None = None
        if self._state is State.INSIDE:
            event = (
                self._message(end)
                if end <= self.max_message_bytes
                else TooLarge(self.max_message_bytes)
            )
        self._drop(eom + self._size)
        return event

    def _message(self, end: int) -> Message:
        with memoryview(self._buffer) as view:
            return Message(bytes(view[:end]))

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._scanned = max(self._scanned - count, 0)

    # Sending.

    def send_message(self, body: bytes) -> None:
        """Queue a message; ValueError for a body with a NUL or that starts like a control."""
        self._to_send += [pad(body, self._size), self._eom]

    def send_cancel(self) -> None:
        """Queue a cancel packet (clients only): all our requests are to end."""
        self._send_control(CANCEL)

    def send_quit(self) -> None:
        """Queue a quit packet (clients only): we leave."""
        self._send_control(QUIT)

    def _send_control(self, byte: bytes) -> None:
        if self._role is not Role.CLIENT:
            raise ValueError("only a client sends control packets")
        self._to_send.append(packet_of(byte, self._size))

    def data_to_send(self) -> list[bytes]:
        """What is to be written now, in order, and is then forgotten here.

        A message is two pieces, its packets and its EOM, for those who must not send both at
        once; join them where that does not matter. Empty pieces do occur.
        """
        pieces, self._to_send = self._to_send, []
        return pieces
