"""Tensors of a checkpoint before and after they are read: bounds first, bytes later.

While a pickle is read, tensors and NumPy arrays are views (offset, shape, strides) of storages
whose bytes may not have been located yet. Every view is checked against its storage and counted
before anything is allocated; its array is made afterwards, one copy, straight from the file.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from .safe_values import Blob, Budget, CheckpointError, Inert, describe

# name: (NumPy code of the stored bits, dtype of the array made). NumPy has no bfloat16 and MLX's
# GPUs have no float64; bool is read as bytes because a stored byte may be anything.
DTYPES: dict[str, tuple[str, mx.Dtype]] = {
    "float32": ("f4", mx.float32),
    "float16": ("f2", mx.float16),
    "bfloat16": ("u2", mx.bfloat16),
    "float64": ("f8", mx.float32),
    "int64": ("i8", mx.int64),
    "int32": ("i4", mx.int32),
    "int16": ("i2", mx.int16),
    "int8": ("i1", mx.int8),
    "uint64": ("u8", mx.uint64),
    "uint32": ("u4", mx.uint32),
    "uint16": ("u2", mx.uint16),
    "uint8": ("u1", mx.uint8),
    "bool": ("u1", mx.bool_),
}
_MAX_DIMS = 32  # NumPy 1.26's
_MAX_SIZE = 2**31 - 1  # MLX's shapes are int32
_ARRAY_PRICE = 512  # bytes an array takes besides its elements


def itemsize(dtype: str) -> int:
    """Bytes of one stored element of ``dtype``."""
    return np.dtype(DTYPES[dtype][0]).itemsize


@dataclass(eq=False, slots=True)
class Storage:
    """A flat run of ``numel`` elements of ``dtype``; ``data`` is None until it has been located."""

    dtype: str
    numel: int
    data: memoryview | None = None
    big_endian: bool = False

    @property
    def nbytes(self) -> int:
        """What it takes in the file."""
        return self.numel * itemsize(self.dtype)


@dataclass(eq=False, slots=True, frozen=True)
class StorageSlice:
    """Elements ``start`` to ``start + numel`` of a storage: what tensors point at."""

    storage: Storage
    start: int
    numel: int


@dataclass(eq=False, slots=True)
class View(Inert):
    """A checked strided view of elements of ``dtype``; offset in bytes, strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    array: mx.array | None = field(default=None, repr=False)

    def numpy(self) -> np.ndarray:
        """The stored elements as they lie in the file, not copied; bfloat16 as its bits."""
        if self.storage.data is None:
            raise CheckpointError("pickle uses a tensor before its storage has been located")
        code = "?" if self.dtype == "bool" else DTYPES[self.dtype][0]
        n = itemsize(self.dtype)
        return np.ndarray(
            self.shape,
            np.dtype((">" if self.storage.big_endian else "<") + code),
            buffer=self.storage.data,
            offset=self.offset,
            strides=[stride * n for stride in self.strides],
        )

    def finish(self) -> mx.array:
        """The elements as an array of this shape, made once."""
        if self.array is None:
            self.array = self._read()
        return self.array

    def _read(self) -> mx.array:
        code, out = DTYPES[self.dtype]
        if 0 in self.shape:
            return mx.zeros(self.shape, out)
        stored = self.numpy()
        if self.dtype == "bool":
            return mx.array(stored.view("u1") != 0)
        with np.errstate(over="ignore"):  # a float64 past float32's range becomes infinite
            stored = np.asarray(stored, "f4" if self.dtype == "float64" else code, order="C")
        array = mx.array(stored)
        if self.dtype == "bfloat16":
            array = array.view(mx.bfloat16)
            mx.eval(array)
        return array


class ArrayFactory:
    """Makes the views of one file; together they may take 4 times its size in bytes plus 1 MiB."""

    def __init__(self, file_size: int) -> None:
        self._budget = Budget(4 * file_size + 2**20, "the tensors")
        self._views: dict[tuple[object, ...], View] = {}

    def view(
        self, part: object, offset: object, shape: object, strides: object, dtype: str | None = None
    ) -> View:
        """A checked view of a storage; equal arguments give the same one, so sharing is kept."""
        if type(part) is not StorageSlice:
            raise CheckpointError(f"expected a tensor's storage, got {describe(part)}")
        # a key of ``DTYPES``; by default the storage's
        dtype = part.storage.dtype if dtype is None else dtype
        # in elements of ``dtype``, as the strides are; counted from the part's start
        (offset,) = _integers("offset", (offset,), sys.maxsize)
        shape = _integers("size", shape, _MAX_SIZE)
        strides = _integers("stride", strides, sys.maxsize)  # 0 repeats, as after ``expand``
        if len(shape) != len(strides):
            raise CheckpointError(f"tensor of size {shape} has {len(strides)} strides {strides}")
        # The stride of an axis of size 1 is never used and may be anything.
        strides = tuple(0 if d <= 1 else s for d, s in zip(shape, strides, strict=True))
        n, unit, size = itemsize(dtype), itemsize(part.storage.dtype), math.prod(shape)
        end = n * (offset + 1 + sum((d - 1) * s for d, s in zip(shape, strides, strict=True)))
        if size and end > part.numel * unit:
            raise CheckpointError(
                f"tensor of size {shape}, stride {strides}, offset {offset} needs {end} bytes of "
                f"a storage of {part.numel * unit}"
            )
        start = part.start * unit + offset * n
        key = (id(part.storage), dtype, start, shape, strides)
        if key not in self._views:
            self._budget.spend(size * n + _ARRAY_PRICE)
            self._views[key] = View(part.storage, dtype, start, shape, strides)
        return self._views[key]

    def from_bytes(
        self, data: memoryview, dtype: str, big_endian: bool, shape: object, fortran: bool
    ) -> View:
        """A view of all bytes of a NumPy array, in C or Fortran order; ``shape`` must fit them."""
        shape = _integers("size", shape, _MAX_SIZE)
        numel = math.prod(shape)
        if len(data) != numel * itemsize(dtype):
            raise CheckpointError(f"{dtype} array of shape {shape} has {len(data)} bytes")
        strides, step = [0] * len(shape), 1
        for axis in range(len(shape)) if fortran else reversed(range(len(shape))):
            strides[axis], step = step, step * max(shape[axis], 1) if numel else 1
        part = StorageSlice(Storage(dtype, numel, data, big_endian), 0, numel)
        return self.view(part, 0, shape, strides)


def _integers(what: str, value: Any, limit: int) -> tuple[int, ...]:
    ok = type(value) in (tuple, list) and len(value) <= _MAX_DIMS
    if not ok or any(type(i) is not int or not 0 <= i <= limit for i in value):
        raise CheckpointError(
            f"tensor {what}: expected at most {_MAX_DIMS} integers from 0 to {limit}, got "
            f"{describe(value)}"
        )
    return tuple(value)


def raw_bytes(data: object) -> memoryview:
    """The bytes of a pickled byte string; Python 2's are latin1 text."""
    if type(data) is Blob:
        return data.data
    if type(data) is str:
        data = data.encode("latin1")
    if type(data) is not bytes:
        raise CheckpointError(f"expected bytes, got {describe(data)}")
    return memoryview(data)
