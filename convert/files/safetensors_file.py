"""Reads safetensors files, whose header is hostile until it has been checked.

Every size and place the header declares is checked against the file before anything is allocated;
the arrays take what the file has (float64 half of it, as it becomes float32).
"""

from __future__ import annotations

import json
import mmap
import os
import stat
from itertools import pairwise
from typing import Any

import mlx.core as mx

from .safe_values import CheckpointError, describe
from .tensors import ArrayFactory, View, itemsize

_LONGEST_HEADER = 2**22  # bytes; a thousand tensors take 2**17, a config of many classes more
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def load_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, mx.array], dict[str, str]]:
    """The tensors by name, float64 as float32, and the metadata; CheckpointError if damaged."""
    name = os.fspath(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise CheckpointError("it is no regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise CheckpointError(f"it has {size} bytes")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        length = int.from_bytes(data[:8], "little")
        if not 2 <= length <= min(len(data) - 8, _LONGEST_HEADER):
            raise CheckpointError(
                f"its header declares {length} bytes, {len(data) - 8} follow; expected at most "
                f"{_LONGEST_HEADER}"
            )
        header = _header(bytes(data[8 : 8 + length]))
        metadata = header.pop("__metadata__", None) or {}  # null in files of MLX without any
        if not isinstance(metadata, dict) or any(type(v) is not str for v in metadata.values()):
            raise CheckpointError(f"its metadata is {describe(metadata)}, expected strings")
        views = _views(header, data[8 + length :], ArrayFactory(len(data)))
        return {key: view.finish() for key, view in views.items()}, metadata
    except CheckpointError as error:
        raise CheckpointError(f"{name} is not a whole safetensors file: {error}") from error


def _header(raw: bytes) -> dict[str, object]:
    try:
        header = json.loads(raw, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"its header is not JSON ({describe(str(error))})") from error
    if type(header) is not dict:
        raise CheckpointError(f"its header is {describe(header)}, expected an object")
    return header


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = sorted(key for key, _ in pairs)
        twice = next(a for a, b in pairwise(names) if a == b)
        raise CheckpointError(f"its header has {describe(twice)} twice")
    return made


def _views(header: dict[str, Any], data: memoryview, factory: ArrayFactory) -> dict[str, View]:
    """Checked views of the tensors, which fill ``data`` one after the other."""
    places = {name: _place(name, entry) for name, entry in header.items()}
    at = 0
    for name, (begin, end) in sorted(places.items(), key=lambda item: item[1]):
        if begin != at or end > len(data):
            raise CheckpointError(
                f"{describe(name)} lies at bytes {begin} to {end}, expected it at {at} of "
                f"{len(data)}: the file is cut short, or its tensors overlap or leave holes"
            )
        at = end
    if at != len(data):
        raise CheckpointError(f"{len(data) - at} bytes follow its last tensor")
    views = {}
    for name, (begin, end) in places.items():
        dtype, shape = _DTYPES[header[name]["dtype"]], header[name]["shape"]
        try:
            views[name] = factory.from_bytes(data[begin:end], dtype, False, shape, False)
        except CheckpointError as error:
            raise CheckpointError(f"{describe(name)}: {error}") from error
    return views


def _place(name: str, entry: object) -> tuple[int, int]:
    """Where a tensor lies, its dtype known and its size in whole elements."""
    keys = {"dtype", "shape", "data_offsets"}
    if type(entry) is not dict or entry.keys() != keys:
        raise CheckpointError(f"{describe(name)} is {describe(entry)}, expected {sorted(keys)}")
    dtype, offsets = entry["dtype"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in _DTYPES:
        raise CheckpointError(
            f"{describe(name)} has dtype {describe(dtype)}, expected one of {', '.join(_DTYPES)}"
        )
    ok = type(offsets) is list and len(offsets) == 2 and all(type(i) is int for i in offsets)
    if not ok or not 0 <= offsets[0] <= offsets[1]:
        raise CheckpointError(f"{describe(name)} has data_offsets {describe(offsets)}")
    if (offsets[1] - offsets[0]) % itemsize(_DTYPES[dtype]):
        raise CheckpointError(f"{describe(name)} ends within an element, at {describe(offsets)}")
    return offsets[0], offsets[1]
