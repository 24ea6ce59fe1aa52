"""Giving up imports that take long, from one module to the next.

Importing torch and what builds on it takes seconds, on a busy machine half a minute, and
no thread can be killed. But it is thousands of modules, and before each of them Python asks
the finders on `sys.meta_path`; ours refuses it once the imports are not wanted any more. What
swallows that is refused its next module, too.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType

from runai.errors import ServerStopping


class _Refusal(MetaPathFinder):
    def __init__(self, unwanted: Callable[[], bool]) -> None:
        self._unwanted = unwanted
        self.refused = False
        self._thread = threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if threading.get_ident() == self._thread and self._unwanted():
            self.refused = True
            raise ServerStopping("The server is stopping.")


@contextmanager
def abandoned_when(unwanted: Callable[[], bool]) -> Iterator[None]:
    """Within, imports on this thread are refused when `unwanted`; then ServerStopping is raised.

    `unwanted` is asked before each module, so it must be quick.
    """
    refusal = _Refusal(unwanted)
    sys.meta_path.insert(0, refusal)
    try:
        yield
    finally:
        sys.meta_path.remove(refusal)
        if refusal.refused:  # whatever has become of it in between
            raise ServerStopping("The server is stopping.")
