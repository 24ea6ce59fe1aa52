"""The one desk of all of Krita's windows: what is asked goes out here, what is drawn comes in.

Owns the connection, the board, and the places that pictures are drawn for. The connection's
thread does nothing here but emit a signal, which Qt delivers in the GUI thread; everything else
happens there.
"""

from __future__ import annotations

import itertools
from typing import Any

from PyQt5.QtCore import QObject, Qt, pyqtSignal

from . import asking, canvas
from .board import Board, Finished
from .connection import Connection
from .settings import Settings
from .starting import LOOPBACK, Starter


class Desk(QObject):
    """`changed` is emitted when the board is not what it was."""

    changed = pyqtSignal()
    _news = pyqtSignal()

    def __init__(self) -> None:
        super().__init__()
        self.board = Board()
        self.starter: Starter | None = None
        self._connection: Connection | None = None
        self._places: dict[str, tuple[canvas.Place, asking.Wish]] = {}
        self._layers = canvas.Layers()
        self._ids = itertools.count(1)
        self._is_taking = False
        # later also where it is emitted in this thread: nobody's loop is to change under it
        self._news.connect(self._take_events, Qt.QueuedConnection)

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self, settings: Settings) -> None:
        """Connect, now and whenever the connection is gone; what was open before is dropped."""
        self.close()
        self.board = Board()
        host, port = settings.host, settings.port
        if settings.command and host in LOOPBACK:
            self.starter = Starter(settings.command, host, port)
        self._connection = Connection(
            (host, port),
            settings.hello(),
            self._news.emit,
            self.starter,
            certificate=settings.certificate,
        )
        self._connection.start()
        self.changed.emit()

    def close(self) -> None:
        """Leave the server; it ends when it has no other client."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._places.clear()
        if self.starter is not None:
            self.starter.close()
            self.starter = None

    def ask(self, wish: asking.Wish, document: Any) -> None:
        """Ask for a picture in the document; what is wrong with that goes onto the board."""
        # a dock that can be seen has opened the desk
        assert self._connection is not None  # noqa: S101 (for mypy)
        try:
            request_id, request = self._prepare(wish, document)
        except asking.Refused as refused:
            self.board.complain(refused.message, refused.hint)
        else:
            self.board.add(request_id)
            self._connection.ask(request)
        self.changed.emit()

    def _prepare(self, wish: asking.Wish, document: Any) -> tuple[str, dict[str, Any]]:
        if document is None:
            raise asking.Refused("There is no picture to draw in.", "Open or create one.")
        planned = asking.plan(wish, canvas.selected(document), canvas.bounds(document))
        if self.board.limits is not None:
            asking.check(planned, wish, self.board.limits)
        where = canvas.place(document, planned.box)
        planned, image, mask = canvas.look(where, planned)
        request_id = f"krita-{next(self._ids)}"
        self._places[request_id] = (where, wish)
        return request_id, asking.request(request_id, wish, planned, image, mask)

    def cancel(self) -> None:
        """End all that is open."""
        if self._connection is not None:
            for request_id in self.board.jobs:
                self._connection.cancel(request_id)

    def _take_events(self) -> None:
        """All that there are. Krita delivers signals while it waits for a layer: not into here."""
        if self._is_taking:
            return  # whoever is at it goes on until there is nothing left
        self._is_taking = True
        try:
            while self._connection is not None and not self._connection.events.empty():
                finished = self.board.hear(self._connection.events.get())
                if finished is not None:
                    self._put_down(finished)
        finally:
            self._is_taking = False
        self.changed.emit()

    def _put_down(self, finished: Finished) -> None:
        where, wish = self._places.pop(finished.request_id, (None, None))
        if where is None or wish is None:
            return
        for picture in finished.pictures:
            try:
                name = asking.layer_name(wish.prompt, picture.seed)
                self._layers.insert(where, picture.png, name)
            except canvas.Gone:
                self.board.complain(
                    "The document that this was drawn for is closed.",
                    f"Seed {picture.seed} draws the same again.",
                )
