"""Reads what a pickle holds without doing what it says.

PURE: no torch. Theory of operation. A pickle is a program for a stack machine (the opcodes are
in the standard library's `pickletools`). Python's own machine imports whatever the program
names and calls it. This one has no way to do either: a name from `HARMLESS` becomes a `Name`,
a call becomes a `Call` that is only written down, and any other name ends the reading. The
few calls that torch's files are made of become what they stand for: dictionaries, `Tensor`s.

Bounded: at most `MAX_STEPS` opcodes, and every one of them costs constant time and memory
(keys are only ever text, numbers and names, so that nothing deep is hashed).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from runai.engine.detection.harmless import HARMLESS, STORAGES, Name

MAX_STEPS = 2_000_000
Value = Any

_REBUILT = ("_rebuild_tensor", "_rebuild_tensor_v2")


@dataclass(frozen=True)
class Storage:
    """Numbers of one dtype, under a key of the file."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage. `offset` and `strides` count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Call:
    """A call of something harmless, written down. `state`: what would be set on the result."""

    what: Name
    arguments: Value
    state: Value = None


class Unsafe(Exception):
    """The pickle refers to something that is not harmless."""


class Malformed(Exception):
    """This is not a pickle, or one that no program of the trade would write."""


def read(stream: BinaryIO, max_steps: int = MAX_STEPS) -> Value:
    """The value of the pickle that begins here; the stream is left behind its end.

    Raises Unsafe naming what it wants to import, Malformed.
    """
    machine = _Machine()
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if step >= max_steps:
                raise Malformed("it has too many steps")
            machine.run(opcode.name, argument)
        return machine.stack[-1]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise Malformed(str(error).splitlines()[0] if str(error) else "damaged") from None


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}

    def run(self, opcode: str, argument: Value) -> None:
        if opcode in _PUSHED:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        else:
            _STEPS[opcode](self, argument)

    def from_mark(self) -> list[Value]:
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        return values

    def top(self, count: int) -> list[Value]:
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def name(self, module: str, name: str) -> None:
        self.stack.append(_harmless(Name(module, name)))

    def call(self) -> None:
        what, arguments = self.top(2)
        self.stack.append(_called(what, arguments))

    def set_items(self, values: list[Value]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                if key is None or isinstance(key, (str, int, float, Name)):
                    target[key] = value

    def extend(self, values: list[Value]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)

    def build(self) -> None:
        (state,) = self.top(1)
        if isinstance(self.stack[-1], Call):
            self.stack[-1].state = state

    def memoize(self, at: int | None = None) -> None:
        self.memo[len(self.memo) if at is None else at] = self.stack[-1]

    def persistent(self) -> None:
        (said,) = self.top(1)
        self.stack.append(_persistent(said))


def _harmless(name: Name) -> Name:
    if name not in HARMLESS:
        raise Unsafe(str(name))
    return name


def _called(what: Value, arguments: Value) -> Value:
    """What a call stands for, if it is one of those that torch's files are made of."""
    if not isinstance(what, Name) or not isinstance(arguments, tuple):
        raise Malformed("it calls something that is no function")
    if what.name in _REBUILT:
        storage, offset, shape, strides, *_ = arguments
        if not isinstance(storage, Storage):
            raise Malformed("a tensor has no storage")
        return Tensor(storage, int(offset), _whole(shape), _whole(strides))
    if what.name in ("_rebuild_parameter", "Size"):
        return arguments[0]
    if what.name == "OrderedDict":
        pairs = arguments[0] if arguments else []
        return {key: value for key, value in pairs if isinstance(key, str)}
    return Call(what, arguments)


def _whole(numbers: Value) -> tuple[int, ...]:
    found = tuple(numbers)
    if not all(isinstance(number, int) and number >= 0 for number in found):
        raise Malformed("a tensor's shape is no shape")
    return found


def _persistent(said: Value) -> Value:
    """What torch keeps outside of the pickle: storages, and once the source of a class."""
    kind, what, key, *rest = said
    if kind == "module" and isinstance(what, Name):
        return what
    _, count, *_ = rest
    if kind != "storage" or not isinstance(what, Name) or not isinstance(count, int):
        raise Malformed("it refers to something that is no storage")
    return Storage(STORAGES.get(what.name, "U8"), str(key), count)


# the opcodes that put their own argument on the stack
_PUSHED = frozenset(
    f"{kind}{size}"
    for kind, sizes in {
        "INT": [""],
        "LONG": ["", "1", "4"],
        "BININT": ["", "1", "2"],
        "FLOAT": [""],
        "BINFLOAT": [""],
        "STRING": [""],
        "BINSTRING": [""],
        "SHORT_BINSTRING": [""],
        "UNICODE": [""],
        "BINUNICODE": ["", "8"],
        "SHORT_BINUNICODE": [""],
        "BINBYTES": ["", "8"],
        "SHORT_BINBYTES": [""],
        "BYTEARRAY": ["8"],
    }.items()
    for size in sizes
)
_CONSTANTS: dict[str, Callable[[], Value]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}


def _pair_up(machine: _Machine, _: Value) -> None:
    values = machine.from_mark()
    machine.stack.append({})
    machine.set_items(values)


def _stack_name(machine: _Machine, _: Value) -> None:
    module, name = machine.top(2)
    machine.name(str(module), str(name))


def _instance(machine: _Machine, argument: Value) -> None:
    machine.stack.append(Call(_harmless(Name(*argument.split(" ", 1))), machine.from_mark()))


def _object(machine: _Machine, _: Value) -> None:
    what, *arguments = machine.from_mark()
    machine.stack.append(_called(what, tuple(arguments)))


def _new_with_keywords(machine: _Machine, _: Value) -> None:
    machine.top(1)
    machine.call()


def _nothing(machine: _Machine, _: Value) -> None:
    """Frames and versions say nothing about the value."""


_STEPS: dict[str, Callable[[_Machine, Value], Any]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "STOP": _nothing,
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.from_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "LIST": lambda m, _: m.stack.append(m.from_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.from_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.top(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.top(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.top(3))),
    "FROZENSET": lambda m, _: m.stack.append(m.from_mark()),
    "DICT": _pair_up,
    "APPEND": lambda m, _: m.extend(m.top(1)),
    "APPENDS": lambda m, _: m.extend(m.from_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.from_mark()),
    "SETITEM": lambda m, _: m.set_items(m.top(2)),
    "SETITEMS": lambda m, _: m.set_items(m.from_mark()),
    "GET": lambda m, at: m.stack.append(m.memo[at]),
    "BINGET": lambda m, at: m.stack.append(m.memo[at]),
    "LONG_BINGET": lambda m, at: m.stack.append(m.memo[at]),
    "PUT": lambda m, at: m.memoize(at),
    "BINPUT": lambda m, at: m.memoize(at),
    "LONG_BINPUT": lambda m, at: m.memoize(at),
    "MEMOIZE": lambda m, _: m.memoize(),
    "GLOBAL": lambda m, said: m.name(*said.split(" ", 1)),
    "STACK_GLOBAL": _stack_name,
    "INST": _instance,
    "OBJ": _object,
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "NEWOBJ_EX": _new_with_keywords,
    "BUILD": lambda m, _: m.build(),
    "PERSID": lambda m, said: m.stack.append(_persistent(said)),
    "BINPERSID": lambda m, _: m.persistent(),
}
