"""A pickle machine that runs no code: it builds plain values, and placeholders for all else.

Python's own unpickler imports what a pickle names and calls it, so a pickle is a program. This machine imports and
calls nothing. A class or function that the pickle names becomes a :class:`Global`, which is its name; its call becomes
the result of one of the ``builders`` that the caller gives, and otherwise a :class:`Placeholder`, which swallows
whatever is put into it.

It does not recurse, so no nesting is too deep. Its input is bounded in bytes and in operations, since one byte of a
pickle can make an object of a hundred. Keys that hash slowly, such as nested tuples and huge numbers, are left out of
dictionaries: no name of a tensor is one. ``pickletools`` of the standard library splits the bytes into operations.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

LARGEST_PICKLE = 64 * 2**20
"""In bytes; that of a model of a thousand tensors takes some hundred thousand."""
MOST_OPERATIONS = 4_000_000
"""A tensor takes about thirty."""
LARGEST_NUMBER = 2**2048
SLOWEST_KEY = 2**60
"""Whole numbers below it are their own hash; above, different ones can be made to have the same."""


class PickleError(Exception):
    """A pickle that is damaged, too large, or of a kind that no program writes for tensors."""


@dataclass(frozen=True)
class Global:
    """The name of a class or a function in a pickle, which is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:100]


@dataclass(frozen=True, eq=False)
class Placeholder:
    """Stands for an object of a class that is not built.

    Attributes:
        kind: the class, or the function that would have made it.
    """

    kind: Global


Builder = Callable[[tuple[Any, ...]], Any]
Builders = Mapping[Global, Builder]
"""For a class or function: what makes its result from its arguments; ValueError if they do not fit."""

_SET = Placeholder(Global("builtins", "set"))


class _Bounded:
    """A stream that gives at most ``left`` bytes."""

    def __init__(self, stream: BinaryIO, left: int) -> None:
        self.stream, self.left = stream, left

    def read(self, size: int) -> bytes:
        self._spend(size)
        return self.stream.read(size)

    def readline(self) -> bytes:
        line = self.stream.readline(self.left + 1)
        self._spend(len(line))
        return line

    def _spend(self, size: int) -> None:
        if size > self.left:
            raise PickleError(f"its pickle is larger than {LARGEST_PICKLE} bytes, or says so")
        self.left -= size


def unpickle(
    stream: BinaryIO, builders: Builders, load_persistent: Callable[[Any], Any] | None = None
) -> Any:
    """Read one pickle from ``stream``, which is then behind its end.

    Args:
        stream: of any protocol.
        builders: of the objects that are built.
        load_persistent: makes an object from what the pickle has for one that is stored outside of it; ValueError if
            there is none.

    Raises:
        PickleError: with the reason.
    """
    machine = _Machine(builders, load_persistent)
    try:
        # It raises ValueError for bytes that are no pickle.
        operations = pickletools.genops(_Bounded(stream, LARGEST_PICKLE))  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in a damaged text
            return machine.run((opcode.name, argument) for opcode, argument, _ in operations)
    except PickleError:
        raise
    except IndexError as error:
        raise PickleError("its pickle takes more from its stack than there is") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise PickleError(f"its pickle is not valid ({reason})") from error


class _Machine:
    """The state of one run: a stack, the stacks below the marks, and the memo."""

    def __init__(
        self, builders: Builders, load_persistent: Callable[[Any], Any] | None = None
    ) -> None:
        self.builders = builders
        self.load_persistent = load_persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, operations: Iterator[tuple[str, Any]]) -> Any:
        for count, (name, argument) in enumerate(operations):
            if count >= MOST_OPERATIONS:
                raise PickleError(f"its pickle has more than {MOST_OPERATIONS} operations")
            if name == "STOP":
                return self.stack.pop()
            if name in _LITERALS:
                self.stack.append(_literal(argument))
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            else:
                operation = _OPERATIONS.get(name)
                if operation is None:
                    raise PickleError(f"its pickle has the operation {name}, which is not read")
                operation(self, argument)
        raise PickleError("its pickle has no end")

    def to_mark(self) -> list[Any]:
        """Pop the mark and all above it, which are returned."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def pop_mark(self, _: Any) -> None:
        self.to_mark()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError
        self.stack[-count:] = [items]

    def tuple_to_mark(self, _: Any) -> None:
        items = tuple(self.to_mark())
        self.stack.append(items)

    def list_to_mark(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append(items)

    def dict_to_mark(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append({})
        self.set_items(items)

    def set_to_mark(self, _: Any) -> None:
        self.to_mark()
        self.stack.append(_SET)

    def append(self, _: Any) -> None:
        self.extend([self.stack.pop()])

    def append_to_mark(self, _: Any) -> None:
        self.extend(self.to_mark())

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Placeholder):
            raise ValueError("it appends to something that is no list")

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def set_items_to_mark(self, _: Any) -> None:
        self.set_items(self.to_mark())

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values, in turn, into the dictionary on top."""
        target = self.stack[-1]
        if isinstance(target, dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            target.update((key, value) for key, value in pairs if _is_fast_key(key))
        elif not isinstance(target, Placeholder):
            raise ValueError("it sets items of something that is no dictionary")

    def add_items(self, _: Any) -> None:
        self.to_mark()
        if not isinstance(self.stack[-1], Placeholder):
            raise ValueError("it adds to something that is no set")

    def find(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self.stack.append(Global(module, name))

    def find_on_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("the name of a class is no text")
        self.stack.append(Global(module, name))

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.make(function, arguments))

    def make(self, function: Any, arguments: Any) -> Any:
        """The result of calling ``function``: built, or a placeholder."""
        if not isinstance(function, Global):
            # A pickle may call what it has made, which is never a function here.
            return function if isinstance(function, Placeholder) else _CALLED
        if not isinstance(arguments, tuple):
            raise ValueError("arguments are no tuple")
        build = self.builders.get(function)
        return Placeholder(function) if build is None else build(arguments)

    def new_object(self, _: Any) -> None:
        self.reduce(None)

    def new_object_with_names(self, _: Any) -> None:
        self.stack.pop()  # arguments by name, which nothing that is built has
        self.reduce(None)

    def object_to_mark(self, _: Any) -> None:
        kind, *arguments = self.to_mark()
        self.stack.append(self.make(kind, tuple(arguments)))

    def instance(self, names: str) -> None:
        module, _, name = names.partition(" ")
        arguments = tuple(self.to_mark())
        self.stack.append(self.make(Global(module, name), arguments))

    def build(self, _: Any) -> None:
        """Attributes of an object are dropped: neither tensors nor dictionaries have any that count."""
        self.stack.pop()
        if not self.stack:
            raise IndexError

    def persistent(self, _: Any) -> None:
        if self.load_persistent is None:
            raise ValueError("it refers to something outside")
        self.stack.append(self.load_persistent(self.stack.pop()))

    def nothing(self, _: Any) -> None:
        """What says something about the bytes alone: the protocol, and frames."""


_CALLED = Placeholder(Global("?", "?"))

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: _SET,
}
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    "TUPLE": _Machine.tuple_to_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_to_mark,
    "DICT": _Machine.dict_to_mark,
    "FROZENSET": _Machine.set_to_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_to_mark,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items_to_mark,
    "ADDITEMS": _Machine.add_items,
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": _Machine.find_on_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_with_names,
    "OBJ": _Machine.object_to_mark,
    "INST": _Machine.instance,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
    "PROTO": _Machine.nothing,
    "FRAME": _Machine.nothing,
}
"""All others are refused: extension codes, buffers outside the pickle, persistent names as text."""


def _literal(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise PickleError("its pickle has a number of more than 2048 bits")
    return value


def _is_fast_key(key: Any) -> bool:
    if isinstance(key, int):
        return abs(key) < SLOWEST_KEY
    return key is None or isinstance(key, str | bytes | float)
