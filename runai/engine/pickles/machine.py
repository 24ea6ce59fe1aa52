"""The stack machine that a pickle is a program for, with everything dangerous left out.

It builds dicts, lists, tuples and plain values. A class or function that the pickle names is
looked for in two short tables: those that make up tensors, for which something of ours is done,
and harmless leftovers of trainers, for which a placeholder is put. Any other makes the file
unsafe. Nothing is imported and nothing that the file names is called.

What it builds is no larger than the pickle: no step copies a container. Opcodes:
https://github.com/python/cpython/blob/main/Lib/pickletools.py
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from runai.engine.pickles.known import DTYPES, HARMLESS, HARMLESS_PACKAGES
from runai.errors import ModelUnsafe

MAX_PICKLE_BYTES = 64 * 2**20
MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names."""

    path: str

    @property
    def last(self) -> str:
        return self.path.rpartition(".")[2]


class _Inert:
    """Stands for an object that is not made."""


@dataclass(frozen=True)
class Storage:
    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class View:
    """A tensor before it is known where its storage lies."""

    storage: Storage
    kind: str
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Damaged(Exception):
    """A pickle that makes no sense."""


class _Limited:
    """A file of which a pickle may read only so much."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_PICKLE_BYTES
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise Damaged("its pickle is absurdly large")
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(min(self._left, 4096))
        self._left -= len(line)
        return line


class Machine:
    """Builds what a pickle describes, of plain containers, values, names and placeholders."""

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = _Limited(file)
        self._stack: list[Any] = []
        self._marks: list[int] = []  # where on the stack a group began
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self._file):
            if opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _VALUES:
                self._stack.append(argument)
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME", "STOP"):
                raise Damaged(f"its pickle uses {opcode.name}")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def collect(self, make: Callable[[list[Any]], Any]) -> None:
        self._stack.append(make(self._pop_to_mark()))

    def tuple_of(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(items)

    def extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], dict):
            self._stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def last(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def pop(self, _: Any) -> None:
        self._stack.pop()

    def put(self, key: Any) -> None:
        self._memo[len(self._memo) if key is None else int(key)] = self._stack[-1]

    def get(self, key: Any) -> None:
        self._stack.append(self._memo[int(key)])

    def name(self, argument: Any) -> None:
        """A class or function by module and name: kept as a name, if it is a known one."""
        if argument is None:  # both are on the stack
            module, name = self.last(2)
        else:
            module, _, name = str(argument).partition(" ")
        path = f"{module}.{name}"
        known = path in HARMLESS or path in _CALLS or path.startswith(HARMLESS_PACKAGES)
        if not known and not (module in ("torch", "torch.storage") and name in DTYPES):
            raise ModelUnsafe(f"names {path[:100]}; loading it could run code.")
        self._stack.append(_Name(path))

    def storage(self, _: Any) -> None:
        word, kind, key, _, count, *_ = self._stack.pop()
        if word != "storage" or not isinstance(kind, _Name):
            raise Damaged("it refers to something that is not a storage")
        self.storages[str(key)] = Storage(kind.last, str(key), int(count))
        self._stack.append(self.storages[str(key)])

    def call(self, _: Any) -> None:
        function, arguments = self.last(2)
        made = _CALLS.get(function.path) if isinstance(function, _Name) else None
        self._stack.append(made(*arguments) if made else _Inert())


def _rebuild(storage: Any, first: int, shape: Any, strides: Any, *_: Any) -> View:
    if len(shape) > MAX_DIMENSIONS or len(shape) != len(strides):
        raise Damaged("a tensor has an absurd shape")
    return View(storage, storage.kind, int(first), tuple(shape), tuple(strides))


def _rebuild_typed(*arguments: Any) -> View:
    """As above for dtypes without a storage class of their own; the dtype is the seventh."""
    view = _rebuild(*arguments[:4])
    return View(view.storage, arguments[6].last, view.first, view.shape, view.strides)


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {},  # filled afterwards
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,
}
_VALUE_NAMES = """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8
"""
_VALUES = frozenset(_VALUE_NAMES.split())
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine.mark,
    "TUPLE": lambda m, _: m.collect(tuple),
    "LIST": lambda m, _: m.collect(list),
    "FROZENSET": lambda m, _: m.collect(tuple),
    "DICT": lambda m, _: m.collect(lambda items: dict(zip(items[::2], items[1::2], strict=True))),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m._pop_to_mark()),
    "ADDITEMS": lambda m, _: m.extend(m._pop_to_mark()),
    "SETITEM": lambda m, _: m.update(m.last(2)),
    "SETITEMS": lambda m, _: m.update(m._pop_to_mark()),
    "POP": Machine.pop,
    "BUILD": Machine.pop,  # an object's state: it stays as it is
    "PUT": Machine.put,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": Machine.put,
    "GET": Machine.get,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "GLOBAL": Machine.name,
    "STACK_GLOBAL": Machine.name,
    "BINPERSID": Machine.storage,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.call,
}
