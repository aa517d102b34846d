"""A pickle reader that runs nothing.

``pickletools`` decodes the opcodes; the stack machine here knows only the plain containers and the
names its caller lists. No class or function a pickle names is ever looked up, imported or called:
a listed name gives the caller's own builder, a name that can only be a class gives a stand-in of
which nothing can be made but opaque objects, every other name is an error. The standard unpickler,
even with ``find_class`` overridden, lets a pickle set attributes on whatever it was handed and
allocates memo tables and byte arrays of any size a file asks for; this one counts what it makes.
"""

from __future__ import annotations

import pickletools
import struct
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from .safe_values import (
    Blob,
    Budget,
    CheckpointError,
    ForeignClass,
    Global,
    Opaque,
    Stateful,
    UnsafeCheckpointError,
    check_key,
    describe,
    foreign_class,
)
from .stream import Stream

# Prices in bytes that bound CPython's real cost from above: an empty set or a dict of one item is
# 216 to 232 bytes, a memo entry about 100 with its key, a slot of a growing stack up to 17.
_CONTAINER, _ENTRY, _MARK, _SLOT = 256, 128, 128, 24
_BLOB = 1024  # strings and bytes of this size and above stay where they are in the file

_OPCODES = {op.code: op for op in pickletools.opcodes}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_BLOB_LENGTH = {"BINSTRING": "<i", "BINBYTES": "<I", "BINBYTES8": "<Q", "BYTEARRAY8": "<Q"}
_LINES = {"GLOBAL": 2, "INST": 2, "PERSID": 1}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_STRINGS = {"SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_LITERALS = _NUMBERS | _STRINGS | {"SHORT_BINBYTES"}


class Unpickler:
    """Reads one pickle of protocol 0 to 5 into plain containers and the values of ``names``."""

    def __init__(
        self,
        data: memoryview,
        names: Mapping[tuple[str, str], object],
        budget: Budget,
        persistent_load: Callable[[object], object] | None = None,
        start: int = 0,
    ) -> None:
        self._stream = Stream(data, start)
        self._names, self._budget, self._persistent_load = names, budget, persistent_load
        self._stack: list[object] = []
        self._marks: list[list[object]] = []
        self._memo: dict[int, object] = {}

    @property
    def position(self) -> int:
        """The first byte past the pickle, after :meth:`load`."""
        return self._stream.position

    def load(self) -> object:
        """Reads up to STOP; UnsafeCheckpointError for a name or call outside ``names``."""
        while True:
            code = self._stream.read(1).decode("latin1")
            op = _OPCODES.get(code)
            if op is None:
                raise CheckpointError(f"expected a pickle opcode, got byte 0x{ord(code):02x}")
            if op.name == "STOP":
                value = self._pop()
                if self._stack or self._marks:
                    raise CheckpointError("malformed pickle: it ends with more than one value")
                return value
            self._step(op)

    def _step(self, op: pickletools.OpcodeInfo) -> None:
        if op.name in _BLOB_LENGTH:
            self._push_blob(op.name)
        elif op.name in _LITERALS:
            arg = self._read_argument(op)
            self._push(arg, sys.getsizeof(arg))
        elif op.name in _CONSTANTS:
            self._push(_CONSTANTS[op.name], 0)
        elif op.name in _EMPTY:
            self._push(_EMPTY[op.name](), _CONTAINER)
        elif op.name in _OPERATIONS:
            _OPERATIONS[op.name](self, self._read_argument(op))
        else:
            what = describe(".".join(self._read_argument(op))) if op.name in _LINES else ""
            raise UnsafeCheckpointError(f"refused the pickle opcode {op.name} {what}".rstrip())

    def _read_argument(self, op: pickletools.OpcodeInfo) -> Any:
        if op.name in _LINES:
            return [self._stream.readline()[:-1].decode() for _ in range(_LINES[op.name])]
        return op.arg.reader(cast("IO[bytes]", self._stream)) if op.arg else None

    def _push(self, value: object, price: int) -> None:
        self._budget.spend(price + _SLOT)
        self._stack.append(value)

    def _pop(self) -> object:
        self._peek()
        return self._stack.pop()

    def _peek(self, kind: type = object) -> Any:
        if not self._stack:
            raise CheckpointError("malformed pickle: it uses a value of an empty stack")
        if kind is not object and type(self._stack[-1]) is not kind:
            got = describe(self._stack[-1])
            raise CheckpointError(f"malformed pickle: expected a {kind.__name__}, got {got}")
        return self._stack[-1]

    def _push_blob(self, name: str) -> None:
        form, text = _BLOB_LENGTH[name], name == "BINSTRING"
        (n,) = struct.unpack(form, self._stream.read(struct.calcsize(form)))
        blob = Blob(self._stream.view(n), text)
        if n < _BLOB:
            self._push(blob.finish(), n + 80)
        else:
            self._push(blob, _CONTAINER)

    def _proto(self, version: int) -> None:
        if version > 5:
            raise CheckpointError(f"expected pickle protocol 0 to 5, got {version}")

    def _mark(self, _: object) -> None:
        self._budget.spend(_MARK)
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self, _: object = None) -> list[object]:
        if not self._marks:
            raise CheckpointError("malformed pickle: it closes a group that was never opened")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _put(self, index: int) -> None:
        self._budget.spend(_ENTRY)
        self._memo[index] = self._peek()

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise CheckpointError(f"malformed pickle: memo {describe(index)} was never stored")
        self._push(self._memo[index], 0)

    def _tuple(self, n: int | None) -> None:
        items = self._pop_mark() if n is None else [self._pop() for _ in range(n)][::-1]
        self._push(tuple(items), sys.getsizeof(()) + 8 * len(items))

    def _extend(self, items: list[object]) -> None:
        self._budget.spend(8 * len(items))
        if not isinstance(self._peek(), Opaque):  # of a class derived from list
            self._peek(list).extend(items)

    def _set_items(self, items: list[object]) -> None:
        self._budget.spend(_ENTRY * (len(items) // 2))
        if isinstance(self._peek(), Opaque):  # of a class derived from dict
            return
        target = self._peek(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            target[key] = value

    def _add_items(self, items: list[object]) -> None:
        target = self._peek(set)
        self._budget.spend(_ENTRY * len(items))
        for item in items:
            check_key(item)
            target.add(item)

    def _dict(self, _: object) -> None:
        items = self._pop_mark()
        self._push({}, _CONTAINER)
        self._set_items(items)

    def _frozenset(self, _: object) -> None:
        items = self._pop_mark()
        self._push(set(), _CONTAINER)
        self._add_items(items)
        self._stack[-1] = frozenset(self._peek(set))

    def _find(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise UnsafeCheckpointError(f"expected two strings, got {describe((module, name))}")
        if (module, name) in self._names:
            self._push(self._names[module, name], 0)
        else:
            self._push(foreign_class(module, name), _CONTAINER + len(module) + len(name))

    def _new(self, arguments: int) -> None:
        """NEWOBJ and NEWOBJ_EX: an object of a class, without its arguments."""
        for _ in range(arguments):
            self._pop()
        kind = self._pop()
        if type(kind) is not ForeignClass:
            opcode = "NEWOBJ" if arguments == 1 else "NEWOBJ_EX"
            raise UnsafeCheckpointError(f"refused the pickle opcode {opcode} on {describe(kind)}")
        self._push(Opaque(kind.name), _CONTAINER)

    def _reduce(self, _: object) -> None:
        args, function = self._pop(), self._pop()
        if type(function) is not Global or function.build is None:
            raise UnsafeCheckpointError(f"refused a call of {describe(function)}")
        if type(args) is not tuple:
            raise CheckpointError(f"{function.name}: expected a tuple, got {describe(args)}")
        try:
            value = function.build(*args)
        except TypeError as error:
            raise CheckpointError(f"{function.name}: wrong arguments {describe(args)}") from error
        self._push(value, _CONTAINER + sys.getsizeof(value))

    def _build(self, _: object) -> None:
        state = self._pop()
        target = self._peek()
        if isinstance(target, Stateful):
            target.set_state(state)
        elif type(target) not in (dict, Opaque):  # as an OrderedDict's (_metadata), dropped
            raise UnsafeCheckpointError(f"refused BUILD on {describe(target)}")

    def _persistent_id(self, _: object) -> None:
        saved = self._pop()
        if self._persistent_load is None:
            raise UnsafeCheckpointError(f"refused the persistent id {describe(saved)}")
        self._push(self._persistent_load(saved), _CONTAINER)


_OPERATIONS: dict[str, Callable[[Unpickler, Any], object]] = {
    "PROTO": Unpickler._proto,
    "FRAME": lambda self, _: None,  # only groups reads
    "MARK": Unpickler._mark,
    "POP": lambda self, _: self._pop(),
    "POP_MARK": Unpickler._pop_mark,
    "DUP": lambda self, _: self._push(self._peek(), 0),
    "PUT": Unpickler._put,
    "BINPUT": Unpickler._put,
    "LONG_BINPUT": Unpickler._put,
    "MEMOIZE": lambda self, _: self._put(len(self._memo)),
    "GET": Unpickler._get,
    "BINGET": Unpickler._get,
    "LONG_BINGET": Unpickler._get,
    "TUPLE": Unpickler._tuple,
    "TUPLE1": lambda self, _: self._tuple(1),
    "TUPLE2": lambda self, _: self._tuple(2),
    "TUPLE3": lambda self, _: self._tuple(3),
    "LIST": lambda self, _: self._push(self._pop_mark(), _CONTAINER),
    "DICT": Unpickler._dict,
    "FROZENSET": Unpickler._frozenset,
    "APPEND": lambda self, _: self._extend([self._pop()]),
    "APPENDS": lambda self, _: self._extend(self._pop_mark()),
    "SETITEM": lambda self, _: self._set_items([self._pop(), self._pop()][::-1]),
    "SETITEMS": lambda self, _: self._set_items(self._pop_mark()),
    "ADDITEMS": lambda self, _: self._add_items(self._pop_mark()),
    "GLOBAL": lambda self, arg: self._find(*arg),
    "STACK_GLOBAL": lambda self, _: self._find(*[self._pop(), self._pop()][::-1]),
    "REDUCE": Unpickler._reduce,
    "BUILD": Unpickler._build,
    "NEWOBJ": lambda self, _: self._new(1),
    "NEWOBJ_EX": lambda self, _: self._new(2),
    "BINPERSID": Unpickler._persistent_id,
}
