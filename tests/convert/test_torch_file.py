"""Files of torch.save: real ones (goldens/make_torch_files.py) and hand-made hostile ones."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_rcnn.convert.torch_file import (
    CheckpointError,
    UnsafeCheckpointError,
    load_pickle_file,
    load_torch_file,
)

GOLDENS = Path(__file__).parent.parent / "goldens"
SIGNED = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8")
UNSIGNED = ("uint64", "uint32", "uint16")
MAGIC = 0x1950A86A20F9469CFC6C


# Hand-made files ----------------------------------------------------------------------------------


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def group(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def storage(key: str = "0", numel: int = 6, kind: str = "FloatStorage", *view: bytes) -> bytes:
    saved = (text("storage"), name("torch", kind), text(key), text("cpu"), number(numel), *view)
    return group(*saved) + b"Q"


def numbers(*values: int) -> bytes:
    return group(*(number(v) for v in values))


def tensor(where: bytes, offset: bytes | int, size: bytes, stride: bytes) -> bytes:
    offset = number(offset) if isinstance(offset, int) else offset
    hooks = name("collections", "OrderedDict") + b")R"
    args = group(where, offset, size, stride, b"\x89", hooks)
    return name("torch._utils", "_rebuild_tensor_v2") + args + b"R"


SIX = np.arange(6, dtype="<f4").tobytes()
GOOD = tensor(storage(), 0, numbers(2, 3), numbers(3, 1))


def archive(
    body: bytes = GOOD, data: dict[str, bytes] | None = None, extra: dict[str, bytes] | None = None
) -> bytes:
    """A zip-format file whose pickle is ``body``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("model/data.pkl", b"\x80\x02" + body + b".")
        for key, value in ({"0": SIX} if data is None else data).items():
            file.writestr(f"model/data/{key}", value)
        for key, value in (extra or {}).items():
            file.writestr(key, value)
    return out.getvalue()


def legacy(body: bytes, keys: Any, data: bytes, little: bool = True) -> bytes:
    info = {"protocol_version": 1001, "little_endian": little}
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, info))
    return head + b"\x80\x02" + body + b"." + pickle.dumps(keys, 2) + data


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write_file(data: bytes) -> Path:
        path = tmp_path / "file.pth"
        path.write_bytes(data)
        return path

    return write_file


def fails(
    path: Path, match: str, kind: type = CheckpointError, load: Any = load_torch_file
) -> None:
    with pytest.raises(kind, match=match) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 700 + len(str(path))
    assert "\n" not in str(caught.value)


def equal(got: mx.array, expected: Any, dtype: mx.Dtype = mx.float32) -> None:
    expected = np.asarray(expected)
    assert isinstance(got, mx.array) and got.dtype == dtype and got.shape == expected.shape
    got = got.astype(mx.float32) if dtype == mx.bfloat16 else got
    np.testing.assert_array_equal(np.array(got), expected)


# Files of torch itself ----------------------------------------------------------------------------


def check_plain(plain: dict[Any, Any]) -> None:
    expected = {
        "list": [1, -2, 2**70, 1.5, True, False, None],
        "tuple": ("a", ("é", 2)),
        "set": {1, 2, "x"},
        "frozenset": frozenset({3}),
        "bytes": b"ab\xffab\xff",
        "no bytes": b"",
        "long bytes": bytes(range(128)) * 9,
        "size": (2, 3),
        "device": "cuda:1",
        "dtype": "torch.float16",
        "counter": {8: 1, 11: 2},
        "ordered": {"a": 1},
        0: "integer key",
    }
    assert plain == expected and list(plain) == list(expected)
    assert {key: type(value) for key, value in plain.items()} == {
        key: type(value) for key, value in expected.items()
    }
    assert [type(item) for item in plain["list"]] == [type(item) for item in expected["list"]]


def check_arrays(arrays: dict[str, Any]) -> None:
    ramp = [[0, 1, 2], [3, 4, 5]]
    equal(arrays["array"], ramp)
    equal(arrays["fortran"], ramp, mx.int64)
    equal(arrays["big endian"], [0, 1, 2])
    equal(arrays["long"], np.arange(600))
    equal(arrays["bool"], [True, False], mx.bool_)
    equal(arrays["0-d"], 2.5)
    equal(arrays["empty"], np.zeros((0, 4)))
    assert arrays["scalar"] == 0.1 and type(arrays["scalar"]) is float
    assert arrays["flag"] is True and arrays["dtype"] == "float32"


def check_contents(state: dict[str, Any], unsigned: tuple[str, ...]) -> None:
    ramp = np.array([[0, 1, 2], [3, 4, 5]])
    for dtype in SIGNED:
        out = mx.float32 if dtype == "float64" else getattr(mx, dtype)
        equal(state[f"dtype.{dtype}"], ramp - 2, out)
    for dtype in ("uint8", *unsigned):
        equal(state[f"dtype.{dtype}"], ramp, getattr(mx, dtype))
    equal(state["dtype.bool"], ramp % 2 == 1, mx.bool_)
    base = np.arange(12.0).reshape(3, 4)
    equal(state["view.base"], base)
    equal(state["view.transposed"], base.T)
    equal(state["view.sliced"], [[4, 6], [8, 10]])
    equal(state["view.row"], [8, 9, 10, 11])
    equal(state["view.element"], 7)
    equal(state["view.expanded"], [[[1] * 4, [5] * 4, [9] * 4]] * 2)
    equal(state["view.channels_last"], np.arange(24).reshape(1, 2, 3, 4))
    assert state["view.tied"] is state["view.base"]
    equal(state["scalar"], 3.5)
    equal(state["empty"], np.zeros((0, 3)))
    equal(state["ones"], [[[0], [1], [2]]])
    equal(state["parameter"], [0, 1, 2, 3])
    equal(state["parameter.attribute"], [0, 1])
    equal(state["attribute"], [0, 1, 2, 3, 4])
    check_plain(state["plain"])
    check_arrays(state["numpy"])
    assert type(state) is dict and list(state)[0] == "dtype.float32"
    assert len(state) == 26 + len(unsigned)


@pytest.mark.parametrize(
    ("file", "unsigned"),
    [("zip", UNSIGNED), ("protocol4", UNSIGNED), ("big_endian", ()), ("legacy", ())],
)
def test_reads_what_torch_wrote(file: str, unsigned: tuple[str, ...]) -> None:
    check_contents(load_torch_file(GOLDENS / f"torch_file_{file}.pt"), unsigned)
    check_contents(load_torch_file(str(GOLDENS / f"torch_file_{file}.pt")), unsigned)


def test_reads_legacy_file_of_a_big_endian_machine(write: Callable[[bytes], Path]) -> None:
    # Such a file says little_endian False and its bytes are little endian all the same
    # (make_torch_files.py checks that torch reads this one so).
    data = (GOLDENS / "torch_file_legacy.pt").read_bytes()
    at = data.index(b"\x88", data.index(b"little_endian"))
    check_contents(load_torch_file(write(data[:at] + b"\x89" + data[at + 1 :])), ())


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_reads_pickles_of_numpy_arrays(
    write: Callable[[bytes], Path], protocol: int, core: str
) -> None:
    data = (GOLDENS / f"torch_file_numpy{protocol}.pkl").read_bytes()
    if core == "numpy.core" and protocol == 2:  # NumPy 1's name; text without a length before it
        data = data.replace(b"numpy._core", b"numpy.core")
    state = load_pickle_file(write(data))
    check_arrays(state["model"])
    assert state["__author__"] == "test"


def test_reads_python_2_pickles(write: Callable[[bytes], Path]) -> None:
    """What cPickle.dump(OrderedDict(...), protocol 2) of Python 2 writes, as MSRA's backbones."""

    def string(raw: bytes) -> bytes:
        return (
            b"U" + bytes([len(raw)]) + raw
            if len(raw) < 256
            else b"T" + struct.pack("<i", len(raw)) + raw
        )

    def array(values: np.ndarray) -> bytes:
        made = (
            name("numpy.core.multiarray", "_reconstruct")
            + group(name("numpy", "ndarray"), numbers(0), string(b"b"))
            + b"R"
        )
        state = (
            number(3),
            string(b"<"),
            b"NNN",
            b"J\xff\xff\xff\xff",
            b"J\xff\xff\xff\xff",
            b"K\0",
        )
        dtype = name("numpy", "dtype") + group(string(b"f4"), b"K\0", b"K\1") + b"R"
        dtype += group(*state) + b"b"
        shape = numbers(*values.shape)
        return made + group(b"K\1", shape, dtype, b"\x89", string(values.tobytes())) + b"b"

    short, long = np.float32([-0.0, 1e30, -7]), np.linspace(-9, 9, 1000, dtype=np.float32)
    note = b"caf\xe9" * 400
    pairs = [(b"a", array(short)), (b"b_\xe9", array(long)), (b"note", string(note))]
    body = (
        name("collections", "OrderedDict")
        + b"]("
        + b"".join(b"](" + string(key) + value + b"e" for key, value in pairs)
        + b"e\x85R"
    )
    state = load_pickle_file(write(b"\x80\x02" + body + b"."))
    assert list(state) == ["a", "b_é", "note"]
    equal(state["a"], short)
    equal(state["b_é"], long)
    assert state["note"] == note.decode("latin1")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_plain_values_survive_every_protocol(tmp_path: Path, data: st.DataObject) -> None:
    atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    keys = st.text() | st.integers() | st.tuples(st.text(), st.integers())
    values = st.recursive(
        atoms | st.binary(max_size=2000) | st.frozensets(keys),
        lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner),
        max_leaves=20,
    )
    value = data.draw(values)
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(value, data.draw(st.integers(1, 5))))
    assert load_pickle_file(path) == value


def test_memory_is_one_copy_of_the_file(write: Callable[[bytes], Path]) -> None:
    count = 2**20
    body = (
        b"]("
        + b"".join(
            tensor(storage(str(i), count), 0, numbers(1024, 1024), numbers(1024, 1))
            for i in range(4)
        )
        + b"e"
    )
    block = np.arange(count, dtype="<f4").tobytes()
    path = write(archive(body, {str(i): block for i in range(4)}))
    size = path.stat().st_size
    tracemalloc.start()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    arrays = load_torch_file(path)
    assert mx.get_peak_memory() - before <= size * 1.01 + 2**16
    assert tracemalloc.get_traced_memory()[1] < 2**20  # nothing of that size in Python or NumPy
    tracemalloc.stop()
    assert arrays[3][1, 5].item() == 1029
    path.unlink()  # the arrays do not depend on the file
    assert arrays[3][1023, 1023].item() == count - 1


def test_pickled_arrays_are_not_copied_twice(write: Callable[[bytes], Path]) -> None:
    arrays = {str(i): np.full((512, 1024), i, np.float32) for i in range(4)}
    path = write(pickle.dumps(arrays, 4))
    tracemalloc.start()
    loaded = load_pickle_file(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert all((loaded[key] == int(key)).all().item() for key in arrays)


# Views --------------------------------------------------------------------------------------------


@st.composite
def views(draw: st.DrawFn) -> tuple[int, int, list[int], list[int]]:
    numel = draw(st.integers(0, 20))
    size = draw(st.lists(st.integers(0, 4), max_size=4))
    stride = draw(st.lists(st.integers(0, 9), min_size=len(size), max_size=len(size)))
    return numel, draw(st.integers(0, 6)), size, stride


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(view=views(), zipped=st.booleans())
def test_views_equal_their_definition(
    tmp_path: Path, view: tuple[int, int, list[int], list[int]], zipped: bool
) -> None:
    numel, offset, size, stride = view
    body = tensor(storage("0", numel), offset, numbers(*size), numbers(*stride))
    raw = np.arange(numel, dtype="<f4").tobytes()
    path = tmp_path / "file.pth"
    path.write_bytes(
        archive(body, {"0": raw}) if zipped else legacy(body, ["0"], struct.pack("<q", numel) + raw)
    )
    expected = np.zeros(size)
    for index in np.ndindex(*size):
        expected[index] = offset + sum(i * s for i, s in zip(index, stride, strict=True))
    if expected.size and expected.max() >= numel:
        fails(path, "bytes of a storage of")
    else:
        equal(load_torch_file(path), expected)


def test_legacy_storage_views(write: Callable[[bytes], Path]) -> None:
    # A view of elements 2 to 5 of a storage of 6; the tensor starts at its element 1.
    view = group(text("v"), number(2), number(3))
    body = tensor(storage("0", 6, "FloatStorage", view), 1, numbers(2), numbers(1))
    data = struct.pack("<q", 6) + SIX
    equal(load_torch_file(write(legacy(body, ["0"], data))), [3, 4])
    beyond = tensor(storage("0", 6, "FloatStorage", view), 1, numbers(3), numbers(1))
    fails(write(legacy(beyond, ["0"], data)), "needs 16 bytes of a storage of 12")
    for bad in (numbers(0, 5, 2), group(text("v"), number(-1), number(2)), number(3)):
        body = tensor(storage("0", 6, "FloatStorage", bad), 0, numbers(1), numbers(1))
        fails(write(legacy(body, ["0"], data)), "a view")


def test_float64_past_float32_becomes_infinite(write: Callable[[bytes], Path]) -> None:
    data = np.array([1e300, -1e300, 0.1, 1e-300]).tobytes()
    body = tensor(storage("0", 4, "DoubleStorage"), 0, numbers(4), numbers(1))
    equal(load_torch_file(write(archive(body, {"0": data}))), np.float32([np.inf, -np.inf, 0.1, 0]))


def test_bool_takes_any_byte(write: Callable[[bytes], Path]) -> None:
    body = tensor(storage("0", 3, "BoolStorage"), 0, numbers(3), numbers(1))
    equal(load_torch_file(write(archive(body, {"0": b"\0\2\xff"}))), [False, True, True], mx.bool_)


HUGE = number(2**62)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (tensor(storage(), 0, numbers(7), numbers(1)), "needs 28 bytes of a storage of 24"),
        (tensor(storage(), 4, numbers(3), numbers(1)), "needs 28 bytes"),
        (tensor(storage(), 0, numbers(2, 3), numbers(4, 1)), "needs 28 bytes"),
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
        (tensor(storage("1"), 0, numbers(2), numbers(1)), "'1'|1 is not in the archive"),
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
def test_wrong_tensors_are_refused(write: Callable[[bytes], Path], body: bytes, match: str) -> None:
    fails(write(archive(body)), match)


def test_expanded_views_are_counted_together(write: Callable[[bytes], Path]) -> None:
    # 1 KiB elements each of the 6-element storage: 4 KiB a view, and no view is like another.
    one = [tensor(storage(), i % 6, numbers(2**10 + i), numbers(0)) for i in range(4000)]
    equal(load_torch_file(write(archive(group(*one[:6]))))[5], np.full(1029, 5))
    fails(write(archive(group(*[tensor(storage(), 0, numbers(2**30), numbers(0))]))), "the tensors")
    path = write(
        archive(group(*(tensor(storage(), 0, numbers(2**20 + i), numbers(0)) for i in (1, 2))))
    )
    fails(path, "the tensors would take more than")
    # The same view any number of times is one array.
    arrays = load_torch_file(write(archive(group(*[one[0]] * 4000))))
    assert all(array is arrays[0] for array in arrays)


# What is not a checkpoint -------------------------------------------------------------------------


def test_missing_file_directory_and_device(tmp_path: Path) -> None:
    for load in (load_torch_file, load_pickle_file):
        with pytest.raises(FileNotFoundError, match="none.pth"):
            load(tmp_path / "none.pth")
        fails(tmp_path, "this is a directory", load=load)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        fails(tmp_path / "pipe", "not a regular file")


SAFETENSORS = struct.pack("<Q", 40) + b'{"a":{"dtype":"F32"}}'.ljust(40) + bytes(64)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "looks like HTML.*download"),
        (b"\n  <html>\n<head>", "looks like HTML"),
        (b"404: Not Found", "text file that begins 404"),
        (b'{"error": "rate limit"}', "text file"),
        (SAFETENSORS, "safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\xff\xd8\xff\xe0" * 9, "expected a pickle opcode, got byte 0xff"),
        (b"\0" * 100, "opcode"),
        (b"\x80", "cut short"),
        (b"\x80\x02", "cut short"),
        (b"\x80\x09N.", "protocol 0 to 5, got 9"),
        (b"PK\3\4" + bytes(40), "cut short"),
    ],
)
def test_other_files_are_named(write: Callable[[bytes], Path], data: bytes, match: str) -> None:
    fails(write(data), match)
    if not data.startswith(b"PK"):
        fails(write(data), match, load=load_pickle_file)


def test_each_reader_names_the_other(write: Callable[[bytes], Path]) -> None:
    fails(GOLDENS / "torch_file_numpy2.pkl", "load_pickle_file")
    fails(GOLDENS / "torch_file_zip.pt", "load_torch_file", load=load_pickle_file)
    fails(GOLDENS / "torch_file_legacy.pt", "load_torch_file", load=load_pickle_file)
    fails(GOLDENS / "torch_file_script.pt", "TorchScript")


@pytest.mark.parametrize("file", ["zip", "legacy", "protocol4"])
def test_every_truncation_is_refused(write: Callable[[bytes], Path], file: str) -> None:
    data = (GOLDENS / f"torch_file_{file}.pt").read_bytes()
    for end in [*range(1, 400, 7), *range(400, len(data), 211), len(data) - 1]:
        path = write(data[:end])
        with pytest.raises(CheckpointError):
            load_torch_file(path)


# Archives -----------------------------------------------------------------------------------------


def patched(data: bytes, signature: bytes, offset: int, value: bytes, last: bool = True) -> bytes:
    at = (data.rindex if last else data.index)(signature) + offset
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"../evil": b"x"}, "unsafe name"),
        ({"model/../../evil": b"x"}, "unsafe name"),
        ({"/etc/passwd": b"x"}, "unsafe name"),
        ({"model/a\\b": b"x"}, "unsafe name"),
        ({"model//x": b"x"}, "unsafe name"),
        ({"other/data.pkl": b"x"}, "one data.pkl"),
        ({"model/code/a.py": b"x"}, "TorchScript"),
        ({"model/constants.pkl": b"x"}, "TorchScript"),
        ({"model/byteorder": b"middle"}, "byte order little or big, got b'middle'"),
    ],
)
def test_archive_entries(
    write: Callable[[bytes], Path], extra: dict[str, bytes], match: str
) -> None:
    fails(write(archive(extra=extra)), match)


def test_damaged_archives(write: Callable[[bytes], Path]) -> None:
    good = archive()
    equal(load_torch_file(write(good)), [[0, 1, 2], [3, 4, 5]])
    entry, end = b"PK\1\2", b"PK\5\6"
    size = struct.pack("<I", 2**31)
    # Offsets in a directory entry: 8 flags, 10 method, 20 packed and 24 unpacked size, 42 position.
    fails(write(patched(good, entry, 24, size)), "declares 2147483648 bytes")
    fails(write(patched(good, entry, 20, size * 2)), "declares 2147483648 bytes, 2147483648")
    fails(write(patched(good, entry, 8, b"\1\0")), "compressed")
    fails(write(patched(good, entry, 10, b"\x08\0")), "compressed")
    fails(write(patched(good, entry, 42, struct.pack("<I", 2**31))), "damaged: no header")
    fails(write(patched(good, entry, 42, bytes(4))), "another name in its own header")
    fails(write(patched(good, entry, 0, b"XXXX")), "damaged: no directory entry")
    fails(write(patched(good, end, 10, b"\xff\xff")), "65535 entries")
    fails(write(patched(good, end, 16, size)), "does not fit")
    other = zipfile.ZipFile(io.BytesIO(archive()))  # noqa: SIM115
    assert other.testzip() is None
    with zipfile.ZipFile(out := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", b"\x80\x02N." + bytes(10**6))
    fails(write(out.getvalue()), "model/data.pkl is compressed")
    with zipfile.ZipFile(out := io.BytesIO(), "w") as file:
        file.writestr("a.txt", b"x")
    fails(write(out.getvalue()), "one data.pkl, it holds \\['a.txt'\\]")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = archive(extra={"model/data/0": SIX})
    fails(write(twice), "holds model/data/0 twice")


def test_overlapping_entries_are_refused(write: Callable[[bytes], Path]) -> None:
    # A header inside another entry's contents: both entries hold the same 40,000 bytes.
    inner = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 40000, 40000, 6, 0) + b"model/"
    with zipfile.ZipFile(out := io.BytesIO(), "w") as file:
        file.writestr("model/data.pkl", b"\x80\x02N.")
        file.writestr("model/x", inner + bytes(40000))
        file.writestr("model/", b"")
    data = out.getvalue()
    data = patched(data, b"PK\1\2", 20, struct.pack("<2I", 40000, 40000))
    data = patched(data, b"PK\1\2", 42, struct.pack("<I", data.index(inner)))
    fails(write(data), "zip entries overlap")


def test_zip64_and_any_root(write: Callable[[bytes], Path]) -> None:
    with zipfile.ZipFile(out := io.BytesIO(), "w") as file:
        with file.open("épreuve 1/data.pkl", "w", force_zip64=True) as entry:
            entry.write(b"\x80\x02" + GOOD + b".")
        file.writestr("épreuve 1/data/0", SIX)
    equal(load_torch_file(write(out.getvalue())), [[0, 1, 2], [3, 4, 5]])
    # The end of a zip64 archive: its own record, a locator, then the old record filled with ones.
    data = archive()
    at = data.rindex(b"PK\5\6")
    count, size, position = struct.unpack("<HII", data[at + 10 : at + 20])
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, position)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    equal(load_torch_file(write(data[:at] + end64 + locator + end)), [[0, 1, 2], [3, 4, 5]])
    bad = struct.pack("<4sIQI", b"PK\6\7", 0, 2**63, 1)
    fails(write(data[:at] + end64 + bad + end), "zip64 end of directory")


# Legacy files -------------------------------------------------------------------------------------


def test_wrong_legacy_files(write: Callable[[bytes], Path]) -> None:
    six = struct.pack("<q", 6) + SIX
    body = tensor(storage("0", 6, "FloatStorage", b"N"), 0, numbers(2, 3), numbers(3, 1))
    good = legacy(body, ["0"], six)
    equal(load_torch_file(write(good)), [[0, 1, 2], [3, 4, 5]])
    equal(
        load_torch_file(write(legacy(body, ["0"], struct.pack(">q", 6) + SIX, False))),
        [[0, 1, 2], [3, 4, 5]],
    )
    fails(write(legacy(body, ["0"], struct.pack(">q", 6) + SIX)), "expected 6")
    fails(write(good[:-1]), "cut short: storage 0 needs 32 bytes")
    fails(write(good[:-30]), "cut short")
    fails(write(legacy(body, [], b"")), "each of the 1 storages once")
    fails(write(legacy(body, ["0", "0"], six * 2)), "each of the 1 storages once")
    fails(write(legacy(body, ["0", "1"], six * 2)), "each of the 1 storages once")
    fails(write(legacy(body, "0", six)), "list of storage keys, got '0'|got 0")
    fails(write(legacy(body, [["0"]], six)), "list of storage keys")
    fails(write(legacy(body, ["0"], struct.pack("<q", 5) + SIX)), "has 5 elements, expected 6")
    fails(write(legacy(body, ["0"], struct.pack("<q", -1) + SIX)), "expected 6")
    fails(write(good.replace(b"M\xe9\x03", b"M\xe8\x03", 1)), "protocol 1001, got 1000")
    fails(write(legacy(GOOD, ["0"], six)), "persistent id", UnsafeCheckpointError)


# Attacks ------------------------------------------------------------------------------------------


class Call:
    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> Any:
        return self.reduced


def attacks(mark: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that create ``mark`` if anything in them runs, and what the error must name."""
    shell = f"touch {mark}"
    python = f"open({str(mark)!r}, 'w')"
    run, args = text(shell), text(python)
    system = name("os", "system")
    ordered = name("collections", "OrderedDict")
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    modules = {
        "os": system + run + b"\x85R",
        "eval": name("builtins", "eval") + args + b"\x85R",
        "exec py2": name("__builtin__", "exec") + args + b"\x85R",
        "nested": text("torch") + text("serialization.os.system") + b"\x93" + run + b"\x85R",
        "dotted": text("collections") + text("OrderedDict.fromkeys") + b"\x93)R",
        "dunder": text("collections") + text("__builtins__") + b"\x93",
        "getattr": name("builtins", "getattr") + ordered + text("__init__") + b"\x86R",
        "import": name("builtins", "__import__") + text("os") + b"\x85R",
        "inst": b"(" + run + b"ios\nsystem\n",
        "obj": b"(" + system + run + b"o",
        "newobj": system + run + b"\x85\x81",
        "newobj of a listed name": ordered + b")\x81",
        "newobj_ex": ordered + b")}\x92",
        "ext1": b"\x82\x01",
        "ext2": b"\x83\x01\x00",
        "ext4": b"\x84\x01\x00\x00\x00",
        "persid": b"Pos.system\n",
        "buffer": b"\x97",
        "readonly buffer": b"N\x98",
        "copyreg": name("copyreg", "add_extension")
        + group(text("os"), text("system"), b"K\1")
        + b"R",
        "reconstructor": name("copy_reg", "_reconstructor") + group(system, system, b"N") + b"R",
        "partial": name("functools", "partial") + group(system, run) + b"R",
        "call a string": text("os.system") + run + b"\x85R",
        "call a list": b"]" + run + b"\x85R",
        "call a class marker": name("torch", "FloatStorage") + b")R",
        "call a result": ordered + b")R" + run + b"\x85R",
        "call a dtype": name("torch", "float32") + run + b"\x85R",
        "build a global": rebuild + b"}" + text("__code__") + run + b"sb",
        "build with slots": ordered + b"N}" + text("build") + system + b"s\x86b",
        "build a list": b"]}b",
        "build a tensor": GOOD + b"}b",
        "memo swap": system + b"q\x00" + ordered + b"q\x01h\x00" + run + b"\x85R",
        "non-string names": b"K\x01K\x02\x93",
        "string and number": text("os") + b"K\x02\x93",
        "class method": text("torch") + text("Tensor.__reduce_ex__") + b"\x93",
        "load": name("torch", "load") + text("x") + b"\x85R",
        "loads": name("pickle", "loads") + text("x") + b"\x85R",
        "load_from_bytes": name("torch.storage", "_load_from_bytes") + text("x") + b"\x85R",
        "type_v2": name("torch._tensor", "_rebuild_from_type_v2")
        + group(system, b"N", run, b"N")
        + b"R",
        "type_v2 other": name("torch._tensor", "_rebuild_from_type_v2")
        + group(ordered, b"N", group(b"]"), b"N")
        + b"R",
        "Namespace": name("argparse", "Namespace") + b")\x81}b",
        "SimpleNamespace": name("types", "SimpleNamespace") + b")R}b",
        "object dtype": name("numpy", "dtype") + group(text("O8"), b"\x89\x88") + b"R",
        "structured": name("numpy", "dtype")
        + group(text("f4"), b"\x89\x88")
        + b"R"
        + group(b"K\3", text("|"), b"NN", text("x"))
        + b"b",
        "subclass": name("numpy.core.multiarray", "_reconstruct")
        + group(name("numpy", "dtype"), numbers(0), text("b"))
        + b"R",
        "whole model": name("torchvision.models.resnet", "ResNet") + b")\x81",
    }
    named = {
        "os": "os.system",
        "eval": "builtins.eval",
        "exec py2": "__builtin__.exec",
        "nested": "torch.serialization.os.system",
        "dotted": "collections.OrderedDict.fromkeys",
        "dunder": "collections.__builtins__",
        "getattr": "builtins.getattr",
        "import": "builtins.__import__",
        "inst": "os.system",
        "obj": "os.system",
        "newobj": "os.system",
        "newobj of a listed name": "NEWOBJ",
        "newobj_ex": "NEWOBJ_EX",
        "ext1": "EXT1",
        "ext2": "EXT2",
        "ext4": "EXT4",
        "persid": "PERSID",
        "buffer": "NEXT_BUFFER",
        "readonly buffer": "READONLY_BUFFER",
        "copyreg": "copyreg.add_extension",
        "reconstructor": "copy_reg._reconstructor",
        "partial": "functools.partial",
        "memo swap": "os.system",
        "class method": "torch.Tensor.__reduce_ex__",
        "load": "torch.load",
        "loads": "pickle.loads",
        "type_v2": "os.system",
        "load_from_bytes": "torch.storage._load_from_bytes",
        "Namespace": "argparse.Namespace",
        "SimpleNamespace": "types.SimpleNamespace",
        "object dtype": "O8",
        "subclass": "numpy.dtype",
        "whole model": "ResNet.*state_dict",
    }
    real = {
        "real system": (pickle.dumps(Call(os.system, shell), 4)[:-1], f"{os.name}.system"),
        "real eval": (pickle.dumps(Call(eval, python), 2)[:-1], "__builtin__.eval"),
        "text pickle": (b"cos\nsystem\n(S'" + shell.encode() + b"'\ntR", "os.system"),
    }
    return {key: (body, named.get(key, "refused|expected")) for key, body in modules.items()} | real


@pytest.mark.parametrize("case", sorted(attacks(Path("x"))))
def test_nothing_is_run(tmp_path: Path, write: Callable[[bytes], Path], case: str) -> None:
    mark = tmp_path / "ran"
    body, match = attacks(mark)[case]
    match = match.replace("|", "|")
    plain = body + b"." if body[:1] in b"\x80c" else b"\x80\x04" + body + b"."
    fails(
        write(archive(body.removeprefix(b"\x80\x04").removeprefix(b"\x80\x02"))),
        match,
        UnsafeCheckpointError,
    )
    fails(write(legacy(body, [], b"")), "", UnsafeCheckpointError)
    if b"Q" not in body:  # persistent ids are refused before what comes after them
        fails(write(plain), match, UnsafeCheckpointError, load_pickle_file)
        fails(write(plain), match, UnsafeCheckpointError)
    assert not mark.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"R",
        b"b",
        b"0",
        b"1",
        b"2",
        b"a",
        b"e",
        b"s",
        b"u",
        b"t",
        b"\x85",
        b"\x93",
        b"Q",
        b"]0.",
        b"h\x00",
        b"j\xff\xff\xff\xff",
        b"g99999999999\n",
        b"q\x00",
        b"\x94",
        b"NN]R",
        b"]Na]Ns",
        b"}(Nu",
        b"}N(e",
        b"}]Ns",
        b"}}Ns",
        b"\x8f(]\x90",
        b"(]\x91",
        b"}" + GOOD + b"Ns",
        b"}" + b"N\x85\x85" + b"Ns",
        b"X\xff\xff\xff\xff",
        b"\x8d" + b"\xff" * 8,
        b"\x8e" + b"\x7f" * 8,
        b"\x96" + b"\x7f" * 8,
        b"B\xff\xff\xff\x7f",
        b"T\xff\xff\xff\xff",
        b"T\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\xff",
        b"\x8a\xff",
        b"X\x01\x00\x00\x00\xff",
        b"Iabc\n",
        b"Fx\n",
        b"L" + b"9" * 5000 + b"L\n",
        b"L" + b"9" * 4090 + b"9" * 300 + b"L\n",
        b"S'abc\n",
        b"cab",
        b"c\xff\n\xff\n",
        b"V\\U99999999\n",
        b"N" * 3 + b"\xff",
        b"\x80\x7f",
        b"]q\x00h\x00a",
        b"]q\x00(h\x00h\x00e",
        b"}q\x00Nh\x00s",
        b"(](e" * 200,
        name("collections", "OrderedDict") + b"N\x85R",
        name("collections", "OrderedDict") + b"](Ne\x85R",
        name("builtins", "set") + b"]]a\x85R",
        name("_codecs", "encode") + text("a") + text("utf-7") + b"\x86R",
        name("_codecs", "encode") + text("€") + text("latin1") + b"\x86R",
        name("torch", "Size") + text("ab") + b"\x85R",
        name("torch", "device") + b"]\x85R",
        name("torch._utils", "_rebuild_tensor_v2") + b")R",
        name("torch._utils", "_rebuild_tensor_v2") + b"NR",
        name("torch._utils", "_rebuild_parameter") + b"NNN\x87R",
        name("numpy.core.multiarray", "scalar") + b"NN\x86R",
        b"(" * 1000 + b"N",
        b"N" * 1000 + b"(" * 1000,
    ],
)
def test_malformed_pickles(write: Callable[[bytes], Path], body: bytes) -> None:  # fmt: skip
    fails(write(archive(body)), "")


@pytest.mark.parametrize(
    "saved",
    [
        b"N",
        text("storage"),
        b")",
        group(text("storage")),
        group(text("module"), b"NNN"),
        group(text("storage"), b"N", text("0"), text("cpu"), number(6)),
        group(text("storage"), name("torch", "Tensor"), text("0"), text("cpu"), number(6)),
        group(text("storage"), name("torch", "FloatStorage"), b"]", text("cpu"), number(6)),
        group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"\x88"),
        group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), text("6")),
        group(b"]" + text("storage") + b"a", b"NNNN"),
    ],
)
def test_persistent_id_junk(write: Callable[[bytes], Path], saved: bytes) -> None:  # fmt: skip
    fails(write(archive(saved + b"Q")), "persistent id|storage")
    fails(write(legacy(saved + b"Q", [], b"")), "persistent id|storage")


def test_nesting_is_limited(write: Callable[[bytes], Path]) -> None:
    assert load_torch_file(write(archive(b"]" + b"]a" * 0 + b"."))) == []
    deep = b"N" + b"\x85" * 99
    assert load_torch_file(write(archive(deep))) is not None
    for body in (b"N" + b"\x85" * 10**5, b"]" * 10**5 + b"a" * (10**5 - 1)):
        fails(write(archive(body)), "deep")
    # Each list holds the one before, 90 tuples deep: no path to a new container is long.
    chain = (
        b"](" + b"N" + b"\x85" * 90 + b"q\x00" + (b"h\x00" + b"\x85" * 90 + b"q\x00") * 50 + b"e"
    )
    fails(write(archive(chain)), "deep")
    # A key is hashed by recursion in C, which would overflow the stack.
    fails(write(archive(b"}N" + b"\x85" * 10**6 + b"Ns")), "as key")
    laughs = b"]q\x00" + b"(h\x00h\x00lq\x00" * 60  # 2^60 leaves, 60 lists
    assert len(load_torch_file(write(archive(laughs)))) == 2


BIG = b"\x8d" + struct.pack("<Q", 10**6) + b"x" * 10**6


@pytest.mark.parametrize(
    "body",
    [
        b"\x8f" * 10**6,
        b"]" * 10**6,
        b"}" * 10**6,
        b"(" * 10**6,
        b"}NNs" * 250_000,
        b"\x8f(N\x90" * 250_000,
        b"\x8f\x94" * 500_000,
        b"(\x91" * 500_000,
        b"N\x94" * 500_000,
        b"N\x85" * 500_000,
        b"J\x00\x00\x00\x01" * 200_000,
        b"\x8c\x02\xc3\xa9" * 250_000,
        b"C\x02ab" * 250_000,
        b"(" + b"](NNNNNNe" * 100_000,
        name("collections", "OrderedDict") + b"q\x00" + b"h\x00)R" * 250_000,
        BIG
        + b"q\x00"
        + name("_codecs", "encode")
        + b"q\x01"
        + (b"h\x01h\x00" + text("latin1") + b"\x86R") * 50_000,
        b"("
        + b"K\x01" * 10**5
        + b"lq\x00"
        + name("builtins", "set")
        + b"q\x01"
        + b"h\x01h\x00\x85R" * 100_000,
        storage()
        + b"q\x00"
        + name("torch._utils", "_rebuild_tensor")
        + b"q\x01"
        + b"".join(
            b"h\x01(h\x00K\x00J" + struct.pack("<i", i) + b"\x85K\x00\x85tR"
            for i in range(2 * 10**4)
        ),
        b"J" + b"\x01" * 4 + b"2" * 10**6,
        b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6,
        b"r\xff\xff\xff\x7f" * 10**5,
        b"]" + b"r\xff\xff\xff\x7f" + b"j\xff\xff\xff\x7f" * 200_000,
    ],
    ids=range(22),
)
def test_objects_are_bounded_by_the_file(write: Callable[[bytes], Path], body: bytes) -> None:
    path = write(archive(body))
    size = path.stat().st_size
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    tracemalloc.start()
    try:
        load_torch_file(path)
    except CheckpointError:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * size + 2**24 + 2**20, peak / size
    assert mx.get_peak_memory() - before < 4 * size + 2**20


def test_directory_is_bounded_by_the_file(write: Callable[[bytes], Path]) -> None:
    count = 65535
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 5, 0)
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0)
    files = b"".join(local + b"%05d" % i for i in range(count))
    entries = b"".join(entry[:-4] + struct.pack("<I", i * 35) + b"%05d" % i for i in range(count))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(entries), len(files), 0)
    path = write(files + entries + end)
    tracemalloc.start()
    fails(path, "one data.pkl|would take")
    assert tracemalloc.get_traced_memory()[1] < 4 * path.stat().st_size + 2**24
    tracemalloc.stop()


def test_no_unpickler_and_no_torch_is_imported() -> None:
    code = (
        "import sys; from mlx_rcnn.convert.torch_file import load_torch_file as load; import os\n"
        "def audit(event, args):\n"
        "    banned = ('pickle.find_class', 'os.system', 'exec', 'compile', 'subprocess.Popen')\n"
        "    if event in banned or event.startswith('socket'): os._exit(7)\n"
        "    if event == 'import' and args[0].startswith('torch'): os._exit(8)\n"
        "load(sys.argv[1]); sys.addaudithook(audit); load(sys.argv[1]); load(sys.argv[2])\n"
        "print(len(load(sys.argv[1])), 'torch' in sys.modules)"
    )
    files = [str(GOLDENS / f"torch_file_{kind}.pt") for kind in ("zip", "legacy")]
    out = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert (out.returncode, out.stdout.split()) == (0, ["29", "False"]), out.stderr


# Fuzzing ------------------------------------------------------------------------------------------

ZIP = archive(
    b"}(" + text("a") + GOOD + text("b") + tensor(storage(), 2, numbers(2), numbers(2)) + text("c")
    + name("collections", "OrderedDict") + b")R}" + text("_metadata") + b"Nsb" + text("d")
    + b"](K\x01NG?\xf0\x00\x00\x00\x00\x00\x00" + text("x") + b"e" + b"u"
)  # fmt: skip
FUZZED = [
    ZIP,
    legacy(
        tensor(storage("0", 6, "FloatStorage", b"N"), 0, numbers(2, 3), numbers(3, 1)),
        ["0"],
        struct.pack("<q", 6) + SIX,
    ),
    (GOLDENS / "torch_file_zip.pt").read_bytes(),
    (GOLDENS / "torch_file_legacy.pt").read_bytes(),
    (GOLDENS / "torch_file_protocol4.pt").read_bytes(),
    (GOLDENS / "torch_file_numpy2.pkl").read_bytes(),
    (GOLDENS / "torch_file_numpy5.pkl").read_bytes(),
]


def survive(path: Path, load: Callable[[Path], Any]) -> None:
    """Reads a damaged file: only CheckpointError, and memory within the limits."""
    size = path.stat().st_size
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    tracemalloc.start()
    try:
        load(path)
    except CheckpointError as error:
        assert str(error).startswith(str(path))
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * size + 2**21
    assert mx.get_peak_memory() - before < 4 * size + 2**20


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(0, len(FUZZED) - 1),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=9)), max_size=4),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.1)), max_size=1),
    st.booleans(),
)
def test_mutated_files(
    tmp_path: Path,
    which: int,
    edits: list[tuple[float, bytes]],
    cuts: list[tuple[float, float]],
    early: bool,
) -> None:
    data = bytearray(FUZZED[which])
    for where, patch in edits:
        # Most of a file is padding and storages: half of the examples aim at its pickle.
        at = int(where * (min(len(data), 2500) if early else len(data)))
        data[at : at + len(patch)] = patch
    for where, length in cuts:
        at = int(where * len(data))
        del data[at : at + int(length * len(data))]
    path = tmp_path / "file.pth"
    path.write_bytes(data)
    survive(path, load_pickle_file if which >= 5 else load_torch_file)


PIECES = [
    b"(", b")", b"]", b"}", b"\x8f", b"N", b"\x88", b"K\x00", b"K\x03", b"J\xff\xff\xff\xff", b"0",
    b"1", b"2", b"a", b"e", b"s", b"u", b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"\x90", b"\x91",
    b"\x93", b"R", b"b", b"Q", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"\x94", text("storage"),
    text("0"), numbers(2, 3), numbers(3, 1), storage(), GOOD, b"C\x04\0\0\x80?",
    name("collections", "OrderedDict"), name("torch", "FloatStorage"), name("torch", "Size"),
    name("torch", "device"), name("torch", "float32"), name("torch._utils", "_rebuild_tensor_v2"),
    name("torch._utils", "_rebuild_tensor_v3"), name("torch._utils", "_rebuild_parameter"),
    name("torch._tensor", "_rebuild_from_type_v2"), name("numpy", "dtype"), name("numpy", "ndarray"),
    name("numpy.core.multiarray", "_reconstruct"), name("numpy.core.multiarray", "scalar"),
    name("numpy.core.numeric", "_frombuffer"), name("builtins", "set"), name("_codecs", "encode"),
    name("numpy", "dtype") + group(text("f4"), b"\x89\x88") + b"R", text("latin1"), b"\x89",
]  # fmt: skip


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_random_pickles(tmp_path: Path, pieces: list[bytes]) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(archive(b"".join(pieces)))
    survive(path, load_torch_file)
