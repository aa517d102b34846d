"""Views of storages: strides, offsets, dtypes, bounds and what they may take together."""

from __future__ import annotations

import struct
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_rcnn.convert.files.torch_file import load_torch_file
from torch_pickles import (
    GOOD,
    NO_VIEW,
    archive,
    equal,
    fails,
    group,
    legacy,
    name,
    number,
    numbers,
    put,
    storage,
    tensor,
    text,
)

HUGE = number(2**62)


@st.composite
def views(draw: st.DrawFn) -> tuple[int, int, list[int], list[int]]:
    numel = draw(st.integers(0, 20))
    size = draw(st.lists(st.integers(0, 4), max_size=4))
    stride = draw(st.lists(st.integers(0, 9), min_size=len(size), max_size=len(size)))
    return numel, draw(st.integers(0, 6)), size, stride


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(view=views(), zipped=st.booleans())
def test_views_equal_their_definition(
    tmp_path: Path, view: tuple[int, int, list[int], list[int]], zipped: bool
) -> None:
    numel, offset, size, stride = view
    where = storage("0", numel, "FloatStorage", *(() if zipped else (NO_VIEW,)))
    body = tensor(where, offset, numbers(*size), numbers(*stride))
    raw = np.arange(numel, dtype="<f4").tobytes()
    old = legacy(body, data=struct.pack("<q", numel) + raw)
    path = put(tmp_path, archive(body, {"0": raw}) if zipped else old)
    expected = np.zeros(size)
    for index in np.ndindex(*size):
        expected[index] = offset + sum(i * s for i, s in zip(index, stride, strict=True))
    if expected.size and expected.max() >= numel:
        fails(path, "bytes of a storage of")
    else:
        equal(load_torch_file(path), expected)


def test_legacy_storage_views(tmp_path: Path) -> None:
    # A view of elements 2, 3 and 4 of a storage of 6; the tensor starts at the second of them.
    where = storage("0", 6, "FloatStorage", group(text("v"), number(2), number(3)))
    equal(load_torch_file(put(tmp_path, legacy(tensor(where, 1, numbers(2), numbers(1))))), [3, 4])
    beyond = legacy(tensor(where, 1, numbers(3), numbers(1)))
    fails(put(tmp_path, beyond), "needs 16 bytes of a storage of 12")
    for bad in (numbers(0, 5, 2), group(text("v"), number(-1), number(2)), number(3)):
        where = storage("0", 6, "FloatStorage", bad)
        fails(put(tmp_path, legacy(tensor(where, 0, numbers(1), numbers(1)))), "a view")


def test_float64_past_float32_becomes_infinite(tmp_path: Path) -> None:
    data = np.array([1e300, -1e300, 0.1, 1e-300]).tobytes()
    body = tensor(storage("0", 4, "DoubleStorage"), 0, numbers(4), numbers(1))
    array = load_torch_file(put(tmp_path, archive(body, {"0": data})))
    equal(array, np.float32([np.inf, -np.inf, 0.1, 0]))


def test_bool_takes_any_byte(tmp_path: Path) -> None:
    body = tensor(storage("0", 3, "BoolStorage"), 0, numbers(3), numbers(1))
    array = load_torch_file(put(tmp_path, archive(body, {"0": b"\0\2\xff"})))
    equal(array, [False, True, True], mx.bool_)


def test_special_bits_survive(tmp_path: Path) -> None:
    # Half and bfloat16: -0, the smallest subnormal, infinity, a NaN with a payload.
    for kind, bits, out in (
        ("HalfStorage", [0x8000, 1, 0x7C00, 0x7E01], mx.float16),
        ("BFloat16Storage", [0x8000, 1, 0x7F80, 0x7FC1], mx.bfloat16),
    ):
        raw = np.array(bits, "<u2").tobytes()
        body = tensor(storage("0", 4, kind), 0, numbers(4), numbers(1))
        array = load_torch_file(put(tmp_path, archive(body, {"0": raw})))
        assert array.dtype == out
        equal(array.view(mx.uint16), bits, mx.uint16)


# fmt: off
@pytest.mark.parametrize(
    ("body", "match"),
    [
        (tensor(storage(), 0, numbers(7), numbers(1)), "needs 28 bytes of a storage of 24"),
        (tensor(storage(), 4, numbers(3), numbers(1)), "needs 28 bytes"),  # (4 + 2 + 1) * 4
        (tensor(storage(), 0, numbers(2, 3), numbers(4, 1)), "needs 28 bytes"),  # (4 + 2 + 1) * 4
        (tensor(storage(), -1, numbers(2), numbers(1)), "offset: expected"),
        (tensor(storage(), HUGE, numbers(2), numbers(1)), "bytes of a storage"),
        (tensor(storage(), 0, numbers(-2), numbers(1)), "size: expected"),
        (tensor(storage(), 0, numbers(2), numbers(-1)), "stride: expected"),
        (tensor(storage(), 0, numbers(2, 3), numbers(1)), "has 1 strides"),
        (tensor(storage(), 0, numbers(2), group(HUGE)), "bytes of a storage"),
        (tensor(storage(), 0, group(HUGE), numbers(1)), "size: expected"),
        (tensor(storage(), 0, numbers(*[2**31 - 1] * 32), numbers(*[0] * 32)), "the tensors would"),
        (tensor(storage(), 0, numbers(*[1] * 33), numbers(*[1] * 33)), "at most 32"),
        (tensor(storage(), 0, number(2), numbers(1)), "size: expected"),
        (tensor(storage(), 0, group(b"\x88"), numbers(1)), "size: expected"),
        (tensor(storage(), 0, group(text("2")), numbers(1)), "size: expected"),
        (tensor(text("0"), 0, numbers(2), numbers(1)), "expected a tensor's storage"),
        (tensor(storage("0", -1), 0, numbers(0), numbers(1)), "declares -1 elements"),
        (tensor(storage("0", 2**62), 0, numbers(2), numbers(1)), "declares 4611686018427387904"),
        (tensor(storage("0", 7), 0, numbers(2), numbers(1)), "has 24 bytes: expected 28"),
        (tensor(storage("0", 6, "DoubleStorage"), 0, numbers(1), numbers(1)), "expected 48"),
        (tensor(storage("1"), 0, numbers(2), numbers(1)), "storage 1 is not in the archive"),
        (tensor(storage("../data/0"), 0, numbers(2), numbers(1)), "is not in the archive"),
        (group(GOOD, tensor(storage("0", 5), 0, numbers(2), numbers(1))), "in another"),
        (
            group(GOOD, tensor(storage("0", 3, "HalfStorage"), 0, numbers(2), numbers(1))),
            "6 elements of float32 in one place and 3 of float16",
        ),
        (storage(), "expected tensors"),
        (name("torch", "Tensor"), "expected tensors"),
    ],
)
# fmt: on
def test_wrong_tensors_are_refused(tmp_path: Path, body: bytes, match: str) -> None:
    fails(put(tmp_path, archive(body)), match)


def test_zero_sizes_need_no_storage(tmp_path: Path) -> None:
    where = storage("0", 0)
    body = tensor(where, 5, numbers(0, 2**31 - 1), numbers(7, 9))
    assert load_torch_file(put(tmp_path, archive(body, {"0": b""}))).shape == (0, 2**31 - 1)


def test_expanded_views_are_counted_together(tmp_path: Path) -> None:
    def expanded(i: int, n: int) -> bytes:
        return tensor(storage(), i, numbers(n), numbers(0))

    few = group(*(expanded(i, 1024 + i) for i in range(6)))
    equal(load_torch_file(put(tmp_path, archive(few)))[5], np.full(1029, 5))
    # 4 GiB, then 1 MiB twice: once is just within 4 times the file plus 1 MiB.
    assert load_torch_file(put(tmp_path, archive(expanded(0, 2**18)))).size == 2**18
    for bomb in (expanded(0, 2**30), group(expanded(0, 2**18), expanded(1, 2**18))):
        fails(put(tmp_path, archive(bomb)), "the tensors would take more than")
    # The same view any number of times is one array.
    arrays = load_torch_file(put(tmp_path, archive(group(*[expanded(0, 1024)] * 4000))))
    assert all(array is arrays[0] for array in arrays)
