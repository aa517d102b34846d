"""Writes files that ``torch.load(weights_only=True)`` reads, and pickles of NumPy arrays.

Both are written by hand, opcode by opcode: that needs neither torch nor the NumPy of a certain
version at the reader's end, and names nothing but tensors and arrays.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import mlx.core as mx
import numpy as np


class _Kind(NamedTuple):
    storage: str  # torch's class of the elements
    numpy: str


_KINDS = {
    mx.float32: _Kind("FloatStorage", "<f4"),
    mx.float16: _Kind("HalfStorage", "<f2"),
    mx.bfloat16: _Kind("BFloat16Storage", "<u2"),
    mx.int64: _Kind("LongStorage", "<i8"),
    mx.int32: _Kind("IntStorage", "<i4"),
    mx.int16: _Kind("ShortStorage", "<i2"),
    mx.int8: _Kind("CharStorage", "|i1"),
    mx.uint8: _Kind("ByteStorage", "|u1"),
    mx.bool_: _Kind("BoolStorage", "|b1"),
}
_ALIGNMENT = 64  # of torch's own archives, so that it can map the file
Write = Callable[[mx.array], None]


def save_torch_file(
    content: Mapping[str, Any],
    path: str | os.PathLike[str],
    extra: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write ``torch.save``'s zip format, ``extra`` texts beside; TypeError for a foreign dtype."""
    arrays: list[mx.array] = []  # contiguous CPU tensors of their dtype, in this axis order
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        pickle = bytearray()

        def tensor(value: mx.array) -> None:
            pickle.extend(_tensor(value, str(len(arrays))))
            arrays.append(value)

        pickle += b"\x80\x02"
        _emit(content, pickle.extend, tensor)
        pickle += b"."
        _entry(archive, "data.pkl", bytes(pickle))
        _entry(archive, "byteorder", b"little")
        for index, value in enumerate(arrays):
            _entry(archive, f"data/{index}", _bits(value))
        _entry(archive, "version", b"3\n")
        for name, text in extra.items():  # torch does not look at it
            _entry(archive, f"extra/{name}", text.encode("utf-8"))


def save_pickle_file(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a pickle of NumPy arrays that NumPy 1 and 2 read, as detectron2's zoo has them."""
    with open(path, "wb") as file:
        file.write(b"\x80\x04")
        # a TypeError for a bfloat16 array, which NumPy does not have, and for what is no array,
        # dict, string or number
        _emit(content, file.write, lambda value: _array(value, file))
        file.write(b".")


def _kind(value: mx.array) -> _Kind:
    if value.dtype not in _KINDS:
        raise TypeError(f"cannot write an array of {value.dtype}: torch has no such dtype")
    return _KINDS[value.dtype]


def _bits(value: mx.array) -> memoryview:
    """The elements' bytes, little endian, in C order."""
    kind = _kind(value)
    value = value.view(mx.uint16) if value.dtype == mx.bfloat16 else value
    array = np.ascontiguousarray(np.array(value), np.dtype(kind.numpy))
    return array.reshape(-1).view(np.uint8).data


def _entry(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """One stored entry whose bytes start at a multiple of 64."""
    info = zipfile.ZipInfo(f"archive/{name}")  # dated 1980: equal weights give equal files
    info.file_size = len(data)
    large = len(data) >= zipfile.ZIP64_LIMIT // 2
    assert archive.fp is not None
    start = archive.fp.tell() + 30 + len(info.filename) + (20 if large else 0)
    padding = -(start + 4) % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=large) as entry:
        entry.write(data)


def _emit(value: object, write: Callable[[bytes], object], array: Write) -> None:
    """Write the opcodes of a value."""
    if isinstance(value, mx.array):
        array(value)
    elif isinstance(value, Mapping):
        write(b"}")
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"cannot write the key {key!r}: expected a string")
            write(_text(key))
            _emit(item, write, array)
            write(b"s")
    elif isinstance(value, str):
        write(_text(value))
    elif value is None or isinstance(value, bool):
        write({None: b"N", False: b"\x89", True: b"\x88"}[value])
    elif isinstance(value, int):
        write(_int(value))
    elif isinstance(value, float):
        write(b"G" + struct.pack(">d", value))
    else:
        raise TypeError(f"cannot write a {type(value).__name__}: expected arrays in dicts")


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _int(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def _ints(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _tensor(value: mx.array, key: str) -> bytes:
    """A tensor whose elements are the archive's ``data/key``."""
    strides: list[int] = []
    step = 1
    for size in reversed(value.shape):
        strides.insert(0, step)
        step *= max(size, 1)
    storage = (
        _text("storage"),
        _name("torch", _kind(value).storage),
        _text(key),
        _text("cpu"),
        _int(value.size),
    )
    hooks = _name("collections", "OrderedDict") + b")R"
    return b"".join(
        (
            _name("torch._utils", "_rebuild_tensor_v2"),
            b"((",
            *storage,
            b"tQ",
            _int(0),
            _ints(value.shape),
            _ints(tuple(strides)),
            b"\x89",
            hooks,
            b"tR",
        )
    )


def _array(value: mx.array, file: IO[bytes]) -> None:
    """A NumPy array, under the module names that NumPy 1 and 2 both have."""
    if value.dtype == mx.bfloat16:
        raise TypeError("cannot write a bfloat16 array: NumPy has no such dtype")
    order, code = _kind(value).numpy[0], _kind(value).numpy[1:]
    file.write(_name("numpy.core.multiarray", "_reconstruct"))
    file.write(b"(" + _name("numpy", "ndarray") + _ints((0,)) + b"C\x01btR")
    file.write(b"(" + _int(1) + _ints(value.shape))
    file.write(_name("numpy", "dtype") + b"(" + _text(code) + b"\x89\x88tR")
    unknown = b"NNN" + b"J\xff\xff\xff\xff" * 2 + _int(0)
    file.write(b"(" + _int(3) + _text(order) + unknown + b"tb")
    bits = _bits(value)
    file.write(b"\x89" + b"\x8e" + struct.pack("<Q", len(bits)))
    file.write(bits)
    file.write(b"tb")
