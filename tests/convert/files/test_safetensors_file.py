"""Safetensors headers: believed only after they have been checked against the file."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.convert.files.safe_values import CheckpointError
from mlx_rcnn.convert.files.safetensors_file import load_safetensors
from torch_pickles import traced_peak

EIGHT = np.arange(2, dtype="<f4").tobytes()


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def file_of(header: Any, data: bytes = EIGHT, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def put(folder: Path, data: bytes) -> Path:
    path = folder / "f.safetensors"
    path.write_bytes(data)
    return path


def fails(path: Path, match: str = ".") -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load_safetensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a whole safetensors file: ")
    assert len(message) < 900 + len(str(path)) and message.isprintable()


def test_every_dtype_of_mlx(tmp_path: Path) -> None:
    kinds = [
        mx.float32,
        mx.float16,
        mx.bfloat16,
        mx.int64,
        mx.int32,
        mx.int16,
        mx.int8,
        mx.uint64,
        mx.uint32,
        mx.uint16,
        mx.uint8,
        mx.bool_,
    ]
    arrays = {str(k): mx.arange(6).reshape(2, 3).astype(k) for k in kinds}
    arrays["scalar"], arrays["none"] = mx.array(7), mx.zeros((0, 4))
    path = tmp_path / "f.safetensors"
    mx.save_safetensors(str(path), arrays, metadata={"format": "pt"})
    got, metadata = load_safetensors(path)
    assert metadata == {"format": "pt"} and got.keys() == arrays.keys()
    for key, value in arrays.items():
        assert got[key].dtype == value.dtype and mx.array_equal(got[key], value)
    mx.save_safetensors(str(path), {"a": mx.array(1)})
    assert load_safetensors(path)[1] == {}


def test_float64_becomes_float32(tmp_path: Path) -> None:
    data = np.array([1.5, -2.0], "<f8").tobytes()
    path = put(tmp_path, file_of({"a": entry("F64", [2], [0, 16])}, data))
    got = load_safetensors(path)[0]["a"]
    assert got.dtype == mx.float32 and got.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"a": entry(shape=[2**31 - 1, 2])}, "'?a'?: .*array of shape"),
        ({"a": entry(shape=[-2])}, "integers from 0"),
        ({"a": entry(shape=[2**40])}, "integers from 0"),
        ({"a": entry(shape=2)}, "integers"),
        ({"a": entry(shape=[2.0])}, "integers"),
        ({"a": entry(shape=[True, 2])}, "integers"),
        ({"a": entry(shape=[1] * 40 + [2])}, "at most 32"),
        ({"a": entry(shape=[1])}, "has 8 bytes"),
        ({"a": entry(offsets=[0, 16])}, "bytes 0 to 16"),
        ({"a": entry(offsets=[8, 16])}, "bytes 8 to 16, expected it at 0"),
        ({"a": entry(offsets=[-8, 0])}, "data_offsets"),
        ({"a": entry(offsets=[8, 0])}, "data_offsets"),
        ({"a": entry(offsets=[0, 2**80])}, "cut short"),
        ({"a": entry(offsets=[0, 8, 8])}, "data_offsets"),
        ({"a": entry(offsets="08")}, "data_offsets"),
        ({"a": entry(offsets=[0, 7])}, "within an element"),
        ({"a": entry(), "b": entry()}, "overlap"),
        ({"a": entry(shape=[1], offsets=[0, 4])}, "4 bytes follow"),
        ({"a": entry("F8_E4M3")}, "dtype F8_E4M3, expected one of F64"),
        ({"a": entry(["F32"])}, "dtype"),
        ({"a": entry(more=1)}, "expected"),
        ({"a": {"dtype": "F32"}}, "expected"),
        ({"a": 3}, "expected"),
        ({"__metadata__": {"format": 1}, "a": entry()}, "metadata"),
        ({"__metadata__": ["pt"], "a": entry()}, "metadata"),
        ([1], "an object"),
        (b'{"a":', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":1,"a":2}', "'?a'? twice"),
        (b"\xff\xfe{}", "not JSON"),
        ({}, "8 bytes follow"),
    ],
)
def test_hostile_headers(tmp_path: Path, header: Any, match: str) -> None:
    fails(put(tmp_path, file_of(header)), match)


@pytest.mark.parametrize("length", [0, 1, 2**20 + 1, 2**31, 2**63, 2**64 - 1])
def test_hostile_lengths(tmp_path: Path, length: int) -> None:
    fails(put(tmp_path, file_of({"a": entry()}, length=length)), "header")


def test_cut_short_anywhere(tmp_path: Path) -> None:
    whole = file_of({"a": entry()})
    for size in range(len(whole)):
        fails(put(tmp_path, whole[:size]))


def test_no_regular_file(tmp_path: Path) -> None:
    fails(tmp_path, "no regular file")
    os.mkfifo(tmp_path / "pipe")
    fails(tmp_path / "pipe", "no regular file")
    with pytest.raises(FileNotFoundError):
        load_safetensors(tmp_path / "nothing")


def test_memory_stays_near_the_file(tmp_path: Path) -> None:
    """A header of nested lists is the worst: 28 bytes of Python for each of the file."""
    for header in (b'{"a":' + b"[[]," * 200_000, b'{"a":[' + b"[]," * 300_000 + b"[]]}"):
        path = put(tmp_path, file_of(header))
        assert traced_peak(lambda path=path: fails(path)) < 40 * len(header)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_fuzz(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any change of any bytes: it is read, or refused in one line."""
    whole = bytearray(file_of({"a": entry(), "__metadata__": {"x": "y"}}))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path = put(tmp_path_factory.mktemp("fuzz", numbered=True), bytes(whole))
    try:
        arrays, _ = load_safetensors(path)
    except CheckpointError as error:
        assert str(error).isprintable()
    else:
        assert sum(array.nbytes for array in arrays.values()) <= len(whole)
