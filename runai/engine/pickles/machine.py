"""The stack machine that a pickle is a program for, with everything dangerous left out.

PURE: no torch. It builds dicts, lists, tuples and plain values. A class or function that the
pickle names stays a name, if it is one of `known`; any other ends the reading. A call of one
of the few that torch's files are made of becomes what it stands for (a dict, a tensor's
description); any other becomes a placeholder. Nothing is imported and nothing that the file
names is called.

Bounded: at most MAX_STEPS opcodes, each of which costs no more than the bytes it is written
with: what may have been made once and be used again and again is never copied, hashed or
written out, unless it is short. Keys are text only: its hash is kept, and none can be made to
collide.

Opcodes: https://github.com/python/cpython/blob/main/Lib/pickletools.py. Those that torch has
no use for (protocols 0 and 1, instances, extensions) are refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Any

from runai.engine.pickles.known import DTYPES, HARMLESS, HARMLESS_PACKAGES

MAX_STEPS = 1_000_000
MAX_DIMENSIONS = 8
MAX_ARGUMENTS = 8
MAX_NUMBER_BYTES = 16
MAX_NAME = 200


class Unsafe(Exception):
    """The pickle names something that is not known to be harmless."""


class Damaged(Exception):
    """This is no pickle, or none that torch would write."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    path: str

    @property
    def last(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass
class Placeholder:
    """Stands for an object that is not made. `state`: what would have been set on it."""

    state: Any = None


@dataclass
class Storage:
    """Numbers of one format under a key; `start` and `length` in bytes, once they are known."""

    kind: str
    key: str
    start: int = -1
    length: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file: a view of a storage. `dtype` as safetensors calls it; `first` (where
    it begins in the storage) and `strides` in elements.
    """

    storage: Storage
    dtype: str
    itemsize: int
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def offset(self) -> int:
        """Its first byte, from the file's start."""
        return self.storage.start + self.first * self.itemsize


class Machine:
    """Runs the pickle that begins at `at`; afterwards `at` is behind its end."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self.tensors: list[Tensor] = []
        self._marks: list[int] = []  # where on the stack a group began
        self._memo: dict[int, Any] = {}

    def run(self, max_steps: int = MAX_STEPS) -> Any:
        """What it builds. Raises Unsafe, Damaged."""
        data, at = self.data, self.at
        try:
            for _ in range(max_steps):
                if data[at] == _STOP:
                    self.at = at + 1
                    return self.stack[-1]
                at = _STEPS[data[at]](self, at + 1)
        except (LookupError, ValueError, TypeError, AttributeError, StructError):
            raise Damaged("its pickle is cut short or damaged") from None
        raise Damaged("its pickle has too many steps")

    def take(self, at: int, length: int) -> bytes:
        """The next bytes, all of them."""
        if length > len(self.data) - at:
            raise Damaged("it is cut short")
        return self.data[at : at + length]

    def from_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def last(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def push_name(self, module: Any, name: Any) -> None:
        if not _short(module) or not _short(name):
            raise Damaged("it names something absurd")
        path = f"{module}.{name}"
        if path not in HARMLESS and not path.startswith(HARMLESS_PACKAGES):
            raise Unsafe("".join(c if c.isprintable() else "?" for c in path[:100]))
        self.stack.append(Name(path))

    def fill(self, items: list[Any]) -> None:
        """Sets items of the dict on top; of a placeholder they are of no interest."""
        target = self.stack[-1]
        if isinstance(target, dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            target.update((key, value) for key, value in pairs if isinstance(key, str))

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    # --- opcodes: each is given where its argument begins, and says where the next one does ---

    def mark(self, at: int) -> int:
        self._marks.append(len(self.stack))
        return at

    def pop(self, at: int) -> int:
        self.stack.pop()
        return at

    def put(self, at: int) -> int:
        self._memo[self.data[at]] = self.stack[-1]
        return at + 1

    def put_long(self, at: int) -> int:
        self._memo[_UINT32.unpack_from(self.data, at)[0]] = self.stack[-1]
        return at + 4

    def memoize(self, at: int) -> int:
        self._memo[len(self._memo)] = self.stack[-1]
        return at

    def get(self, at: int) -> int:
        self.stack.append(self._memo[self.data[at]])
        return at + 1

    def get_long(self, at: int) -> int:
        self.stack.append(self._memo[_UINT32.unpack_from(self.data, at)[0]])
        return at + 4

    def name(self, at: int) -> int:
        between = self.data.index(b"\n", at, at + MAX_NAME)
        end = self.data.index(b"\n", between + 1, between + MAX_NAME)
        self.push_name(self.data[at:between].decode(), self.data[between + 1 : end].decode())
        return end + 1

    def name_on_stack(self, at: int) -> int:
        module, name = self.last(2)
        self.push_name(module, name)
        return at

    def outside(self, at: int) -> int:
        """What torch keeps outside of the pickle: storages, and once the source of a class."""
        word, what, key, *_ = _arguments(self.stack.pop())
        if word == "module" and isinstance(what, Name):
            self.stack.append(what)
        elif word == "storage" and isinstance(what, Name) and isinstance(key, str):
            self.stack.append(self.storages.setdefault(key, Storage(what.last, key)))
        else:
            raise Damaged("it refers to something that is no storage")
        return at

    def call(self, at: int) -> int:
        what, arguments = self.last(2)
        if not isinstance(what, Name):
            raise Damaged("it calls something that is no function")
        made = _CALLS.get(what.path)
        self.stack.append(made(self, *_arguments(arguments)) if made else Placeholder())
        return at

    def build(self, at: int) -> int:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Placeholder):
            self.stack[-1].state = state
        return at


def _short(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= MAX_NAME


def _arguments(given: Any) -> tuple[Any, ...]:
    if not isinstance(given, tuple) or len(given) > MAX_ARGUMENTS:
        raise Damaged("its pickle is damaged")
    return given


# --- what calls stand for ----------------------------------------------------------------


def _rebuilt(machine: Machine, storage: Any, first: Any, shape: Any, strides: Any, *_: Any) -> Any:
    return _tensor(machine, storage, storage.kind, first, shape, strides)


def _rebuilt_as(machine: Machine, storage: Any, first: Any, *arguments: Any) -> Tensor:
    """As above for dtypes without a storage class of their own; the dtype is the seventh."""
    shape, strides, _, _, dtype, *_ = arguments
    return _tensor(machine, storage, dtype.last, first, shape, strides)


def _tensor(machine: Machine, storage: Any, kind: str, *place: Any) -> Tensor:
    first, shape, strides = place
    if not isinstance(storage, Storage) or not len(shape) == len(strides) <= MAX_DIMENSIONS:
        raise Damaged("a tensor has an absurd shape")
    if not all(type(number) is int and number >= 0 for number in (first, *shape, *strides)):
        raise Damaged("a tensor has an absurd shape")
    found = Tensor(storage, *DTYPES[kind], first, tuple(shape), tuple(strides))
    machine.tensors.append(found)
    return found


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda _: {},  # filled afterwards
    "torch._utils._rebuild_tensor": _rebuilt,
    "torch._utils._rebuild_tensor_v2": _rebuilt,
    "torch._utils._rebuild_tensor_v3": _rebuilt_as,
    "torch._utils._rebuild_parameter": lambda _, data, *__: data,
}

# --- the table of opcodes ----------------------------------------------------------------

_UINT32 = Struct("<I")
Step = Callable[[Machine, int], int]


def _constant(make: Callable[[], Any]) -> Step:
    def step(machine: Machine, at: int) -> int:
        machine.stack.append(make())
        return at

    return step


def _number(form: str) -> Step:
    layout = Struct(form)

    def step(machine: Machine, at: int) -> int:
        machine.stack.append(layout.unpack_from(machine.data, at)[0])
        return at + layout.size

    return step


def _counted(form: str, read: Callable[[bytes], Any]) -> Step:
    """For an argument of bytes, behind their number."""
    layout = Struct(form)

    def step(machine: Machine, at: int) -> int:
        (length,) = layout.unpack_from(machine.data, at)
        machine.stack.append(read(machine.take(at + layout.size, length)))
        return at + layout.size + int(length)

    return step


def _text(written: bytes) -> str:
    # Python writes halves of characters, which nothing could send on, for paths that are no text
    return written.decode(errors="replace")


def _whole_number(written: bytes) -> int:
    if len(written) > MAX_NUMBER_BYTES:
        raise Damaged("it holds an absurd number")
    return int.from_bytes(written, "little", signed=True)


def _changing(change: Callable[[Machine], None]) -> Step:
    """For an opcode that has no argument and needs no place."""

    def step(machine: Machine, at: int) -> int:
        change(machine)
        return at

    return step


def _skip(size: int) -> Step:
    return lambda _, at: at + size


def _refused(_: Machine, __: int) -> int:
    raise Damaged("its pickle does what torch's never do")


_BY_NAME: dict[str, Step] = {
    "PROTO": _skip(1),
    "FRAME": _skip(8),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_LIST": _constant(list),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_SET": _constant(list),
    "BININT": _number("<i"),
    "BININT1": _number("<B"),
    "BININT2": _number("<H"),
    "BINFLOAT": _number(">d"),
    "LONG1": _counted("<B", _whole_number),
    "LONG4": _counted("<I", _whole_number),
    "BINUNICODE": _counted("<I", _text),
    "BINUNICODE8": _counted("<Q", _text),
    "SHORT_BINUNICODE": _counted("<B", _text),
    "BINBYTES": _counted("<I", bytes),
    "BINBYTES8": _counted("<Q", bytes),
    "SHORT_BINBYTES": _counted("<B", bytes),
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": _changing(lambda m: m.from_mark().clear()),
    "TUPLE": _changing(lambda m: m.stack.append(tuple(m.from_mark()))),
    "LIST": _changing(lambda m: m.stack.append(m.from_mark())),
    "FROZENSET": _changing(lambda m: m.stack.append(m.from_mark())),
    "TUPLE1": _changing(lambda m: m.stack.append(tuple(m.last(1)))),
    "TUPLE2": _changing(lambda m: m.stack.append(tuple(m.last(2)))),
    "TUPLE3": _changing(lambda m: m.stack.append(tuple(m.last(3)))),
    "APPEND": _changing(lambda m: m.extend(m.last(1))),
    "APPENDS": _changing(lambda m: m.extend(m.from_mark())),
    "ADDITEMS": _changing(lambda m: m.extend(m.from_mark())),
    "SETITEM": _changing(lambda m: m.fill(m.last(2))),
    "SETITEMS": _changing(lambda m: m.fill(m.from_mark())),
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put_long,
    "MEMOIZE": Machine.memoize,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get_long,
    "GLOBAL": Machine.name,
    "STACK_GLOBAL": Machine.name_on_stack,
    "BINPERSID": Machine.outside,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.call,
    "BUILD": Machine.build,
}
_STEPS: dict[int, Step] = {
    ord(opcode.code): _BY_NAME.get(opcode.name, _refused) for opcode in pickletools.opcodes
}
_STOP = ord(".")
