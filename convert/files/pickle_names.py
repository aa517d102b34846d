"""The allow-list: every name that a checkpoint's pickle may use, and what it becomes here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .safe_values import (
    CheckpointError,
    Global,
    Stateful,
    UnsafeCheckpointError,
    check_key,
    describe,
)
from .tensors import DTYPES, ArrayFactory, View, raw_bytes

Names = dict[tuple[str, str], object]

# A storage class's elements; the bytes of an untyped one get their dtype from each tensor.
STORAGES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
_NUMPY_CODES = {np.dtype(name).str[1:]: name for name in DTYPES if name != "bfloat16"}


_BUILTINS = ("builtins", "__builtin__")
_FACTORIES = ("int", "float", "bool", "str", "list", "dict", "tuple")  # of a defaultdict


def _named(builders: Mapping[str, Callable[..., object] | None]) -> Names:
    names: Names = {}
    for path, build in builders.items():
        module, _, name = path.rpartition(".")
        names[module, name] = Global(path, build)
    return names


def container_names() -> Names:
    """The names with which the standard library pickles plain containers and bytes."""
    builtin: dict[str, Callable[..., object]] = {
        "set": _set,
        "frozenset": lambda *items: frozenset(_set(*items)),
        "bytes": _no_bytes,
    }
    return _named(
        {
            "collections.OrderedDict": _dict,
            "collections.Counter": _dict,
            "collections.defaultdict": _default_dict,
            "mmengine.config.config.ConfigDict": _dict,
            "_codecs.encode": _encode,
            **{f"{m}.{name}": build for name, build in builtin.items() for m in _BUILTINS},
            **{f"{m}.{name}": None for name in _FACTORIES for m in _BUILTINS},
        }
    )


def _dict(items: Any = ()) -> dict[object, object]:
    """From nothing, a list of pairs (Python 2's OrderedDict) or a dict (Counter)."""
    pairs = list(items.items()) if type(items) is dict else items
    if type(pairs) not in (list, tuple) or any(
        type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs
    ):
        raise CheckpointError(f"expected the items of a dict, got {describe(items)}")
    for key, _ in pairs:
        check_key(key)
    made: dict[object, object] = dict(pairs)
    return made


def _default_dict(_factory: object = None) -> dict[object, object]:
    """Its items follow one by one."""
    return {}


def _set(items: Any = ()) -> set[object]:
    if type(items) not in (list, tuple):
        raise CheckpointError(f"expected the members of a set, got {describe(items)}")
    for item in items:
        check_key(item)
    return set(items)


def _encode(text: object, encoding: object) -> bytes:
    """How pickle protocol 2 writes bytes."""
    if encoding != "latin1" or type(text) is not str:
        raise CheckpointError(f"expected text in latin1, got {describe((text, encoding))}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How pickle protocol 2 writes no bytes."""
    return b""


class NumpyDtype(Stateful):
    """A pickled ``numpy.dtype`` of a plain number."""

    def __init__(self, code: object, _align: object = 0, _copy: object = 1) -> None:
        if type(code) is not str or code not in _NUMPY_CODES:
            raise UnsafeCheckpointError(
                f"refused a numpy.dtype of {describe(code)}: expected one of "
                f"{', '.join(_NUMPY_CODES)}"
            )
        self.name = _NUMPY_CODES[code]
        self.big_endian = False

    def set_state(self, state: Any) -> None:
        """Takes the byte order; titles, fields and subarrays are refused."""
        ok = type(state) is tuple and len(state) >= 5 and state[1] in ("<", ">", "|")
        if not ok or any(part is not None for part in state[2:5]):
            raise UnsafeCheckpointError(f"refused a numpy.dtype of state {describe(state)}")
        self.big_endian = state[1] == ">"

    def finish(self) -> str:
        """Its name, such as ``"float32"``, where a dtype was saved by itself."""
        return self.name


class NumpyArray(Stateful):
    """A pickled ``numpy.ndarray``; BUILD brings its contents."""

    def __init__(self, factory: ArrayFactory) -> None:
        self._factory = factory
        self._view: View | None = None

    def set_state(self, state: object) -> None:
        """Takes (version, shape, dtype, whether in Fortran order, bytes)."""
        if type(state) is not tuple or len(state) != 5:
            raise CheckpointError(f"expected the five parts of an array, got {describe(state)}")
        _version, shape, dtype, fortran, data = state
        self._view = _from_bytes(self._factory, data, dtype, shape, fortran)

    def finish(self) -> object:
        """The array."""
        if self._view is None:
            raise CheckpointError("pickle holds a NumPy array without contents")
        return self._view.finish()


def _from_bytes(
    factory: ArrayFactory, data: object, dtype: object, shape: object, fortran: object
) -> View:
    if type(dtype) is not NumpyDtype:
        raise CheckpointError(f"expected a numpy.dtype, got {describe(dtype)}")
    return factory.from_bytes(raw_bytes(data), dtype.name, dtype.big_endian, shape, bool(fortran))


def numpy_names(factory: ArrayFactory) -> Names:
    """The names with which NumPy (1 and 2) pickles arrays and scalars of plain numbers."""

    def reconstruct(subtype: object, _shape: object, _code: object) -> NumpyArray:
        if type(subtype) is not Global or subtype.name != "numpy.ndarray":
            raise UnsafeCheckpointError(f"refused an array of class {describe(subtype)}")
        return NumpyArray(factory)

    def scalar(dtype: object, data: object) -> object:
        view = _from_bytes(factory, data, dtype, (), False)
        return view.numpy().item()

    def frombuffer(data: object, dtype: object, shape: object, order: object) -> View:
        return _from_bytes(factory, data, dtype, shape, order == "F")

    names = _named({"numpy.ndarray": None, "numpy.dtype": NumpyDtype})
    for core in ("numpy.core", "numpy._core"):
        names |= _named(
            {
                f"{core}.multiarray._reconstruct": reconstruct,
                f"{core}.multiarray.scalar": scalar,
                f"{core}.numeric._frombuffer": frombuffer,
            }
        )
    return names


def torch_names(factory: ArrayFactory) -> Names:
    """The names with which torch pickles tensors, and those that go with them."""

    def tensor(part: object, offset: object, size: object, stride: object, *rest: object) -> View:
        _grad, _hooks, *metadata = rest or (False, None)
        if any(metadata):
            raise CheckpointError(f"expected no conj or neg bits, got {describe(metadata)}")
        return factory.view(part, offset, size, stride)

    def typed_tensor(
        part: object, offset: object, size: object, stride: object, *rest: object
    ) -> View:
        _grad, _hooks, dtype, *metadata = rest
        name = dtype.removeprefix("torch.") if type(dtype) is str else None
        if any(metadata) or name not in DTYPES:
            raise CheckpointError(f"expected a tensor of numbers, got {describe(rest)}")
        return factory.view(part, offset, size, stride, name)

    def parameter(data: object, _grad: object, _hooks: object, _state: object = None) -> View:
        if type(data) is not View:
            raise CheckpointError(f"expected the tensor of a parameter, got {describe(data)}")
        return data

    def with_attributes(function: object, _class: object, args: Any, _attributes: object) -> View:
        if type(function) is not Global or function.build not in (tensor, typed_tensor):
            raise UnsafeCheckpointError(f"refused a tensor made by {describe(function)}")
        view = function.build(*args)
        assert isinstance(view, View)
        return view

    names = _named(
        {
            "torch._utils._rebuild_tensor": tensor,
            "torch._utils._rebuild_tensor_v2": tensor,
            "torch._utils._rebuild_tensor_v3": typed_tensor,
            "torch._utils._rebuild_parameter": parameter,
            "torch._utils._rebuild_parameter_with_state": parameter,
            "torch._tensor._rebuild_from_type_v2": with_attributes,
            "torch.Tensor": None,
            "torch.nn.parameter.Parameter": None,
            "torch.Size": _size,
            "torch.device": _device,
            "torch.storage.UntypedStorage": None,
            **{f"torch.{name}": None for name in STORAGES},
        }
    )
    names |= {("torch", name): f"torch.{name}" for name in DTYPES}
    return names | container_names() | numpy_names(factory)


def _size(dims: Any = ()) -> tuple[int, ...]:
    if type(dims) not in (tuple, list) or not all(type(d) is int for d in dims):
        raise CheckpointError(f"torch.Size: expected integers, got {describe(dims)}")
    return tuple(dims)


def _device(kind: object, index: object = None) -> str:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise CheckpointError(f"torch.device: got {describe((kind, index))}")
    return kind if index is None else f"{kind}:{index}"
