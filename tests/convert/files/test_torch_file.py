"""Whole files: those of torch itself (goldens/make_torch_files.py), and what is no checkpoint."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_rcnn.convert.files.torch_file import (
    CheckpointError,
    UnsafeCheckpointError,
    load_pickle_file,
    load_torch_file,
)
from torch_pickles import (
    GOLDENS,
    GOOD,
    SIX,
    SIX_LEGACY,
    archive,
    equal,
    fails,
    group,
    legacy,
    name,
    numbers,
    put,
    storage,
    tensor,
    traced_peak,
)

SIGNED = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8")
UNSIGNED = ("uint64", "uint32", "uint16")


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
    assert [type(item) for item in plain.values()] == [type(item) for item in expected.values()]
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
    """Everything that contents() of make_torch_files.py says."""
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
    for key, n in (("parameter", 4), ("parameter.attribute", 2), ("attribute", 5)):
        equal(state[key], np.arange(n))
    check_plain(state["plain"])
    check_arrays(state["numpy"])
    assert type(state) is dict and next(iter(state)) == "dtype.float32"
    assert len(state) == 26 + len(unsigned)


@pytest.mark.parametrize(
    ("file", "unsigned"),
    [("zip", UNSIGNED), ("protocol4", UNSIGNED), ("big_endian", ()), ("legacy", ())],
)
def test_reads_what_torch_wrote(file: str, unsigned: tuple[str, ...]) -> None:
    path = GOLDENS / f"torch_file_{file}.pt"
    check_contents(load_torch_file(path), unsigned)
    check_contents(load_torch_file(str(path)), unsigned)


def test_reads_legacy_file_of_a_big_endian_machine(tmp_path: Path) -> None:
    # Such a file says little_endian False and its bytes are little endian all the same
    # (make_torch_files.py checks that torch reads this one so).
    data = (GOLDENS / "torch_file_legacy.pt").read_bytes()
    at = data.index(b"\x88", data.index(b"little_endian"))
    check_contents(load_torch_file(put(tmp_path, data[:at] + b"\x89" + data[at + 1 :])), ())


@pytest.mark.parametrize(
    ("protocol", "core"), [(2, b"numpy._core"), (2, b"numpy.core"), (5, b"numpy._core")]
)
def test_reads_pickles_of_numpy_arrays(tmp_path: Path, protocol: int, core: bytes) -> None:
    data = (GOLDENS / f"torch_file_numpy{protocol}.pkl").read_bytes()
    # NumPy 1 wrote numpy.core; in protocol 2 names have no length before them.
    state = load_pickle_file(put(tmp_path, data.replace(b"numpy._core", core)))
    check_arrays(state["model"])
    assert state["__author__"] == "test"


def python2_string(raw: bytes) -> bytes:
    if len(raw) < 256:
        return b"U" + bytes([len(raw)]) + raw
    return b"T" + struct.pack("<i", len(raw)) + raw


def python2_array(values: np.ndarray) -> bytes:
    made = group(name("numpy", "ndarray"), numbers(0), python2_string(b"b")) + b"R"
    dtype = name("numpy", "dtype") + group(python2_string(b"f4"), b"K\0", b"K\1") + b"R"
    minus = b"J\xff\xff\xff\xff"
    dtype += group(b"K\3", python2_string(b"<"), b"NNN", minus, minus, b"K\0") + b"b"
    shape, data = numbers(*values.shape), python2_string(values.tobytes())
    state = group(b"K\1", shape, dtype, b"\x89", data) + b"b"
    return name("numpy.core.multiarray", "_reconstruct") + made + state


def test_reads_python_2_pickles(tmp_path: Path) -> None:
    """What Python 2's pickle wrote of an OrderedDict of arrays, as in MSRA's backbones."""
    short, long = np.float32([-0.0, 1e30, -7]), np.linspace(-9, 9, 1000, dtype=np.float32)
    note = b"caf\xe9" * 400
    values = {b"a": python2_array(short), b"b\xe9": python2_array(long), b"n": python2_string(note)}
    pairs = b"".join(b"](" + python2_string(k) + v + b"e" for k, v in values.items())
    body = name("collections", "OrderedDict") + b"](" + pairs + b"e\x85R"
    state = load_pickle_file(put(tmp_path, b"\x80\x02" + body + b"."))
    assert list(state) == ["a", "bé", "n"]
    equal(state["a"], short)
    equal(state["bé"], long)
    assert state["n"] == note.decode("latin1")


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data(), st.integers(1, 5))
def test_plain_values_survive_every_protocol(
    tmp_path: Path, data: st.DataObject, protocol: int
) -> None:
    atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    keys = st.text(max_size=4) | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False)
    values = st.recursive(
        atoms | st.binary() | st.frozensets(keys, max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    )
    value = data.draw(values)
    assert load_pickle_file(put(tmp_path, pickle.dumps(value, protocol))) == value


def test_memory_is_one_copy_of_the_file(tmp_path: Path) -> None:
    count, block = 2**20, np.arange(2**20, dtype="<f4").tobytes()
    tensors = [
        tensor(storage(str(i), count), 0, numbers(1024, 1024), numbers(1024, 1)) for i in range(4)
    ]
    path = put(tmp_path, archive(group(*tensors), {str(i): block for i in range(4)}))
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    arrays: list[mx.array] = []
    # No copy in Python or NumPy, one in MLX.
    assert traced_peak(lambda: arrays.extend(load_torch_file(path))) < 2**20
    assert mx.get_peak_memory() - before <= path.stat().st_size * 1.01
    path.unlink()  # the arrays do not depend on the file
    assert arrays[3][1023, 1023].item() == count - 1


def test_pickled_arrays_are_not_copied_twice(tmp_path: Path) -> None:
    arrays = {str(i): np.full((512, 1024), i, np.float32) for i in range(4)}
    path = put(tmp_path, pickle.dumps(arrays, 4))
    loaded: dict[str, mx.array] = {}
    assert traced_peak(lambda: loaded.update(load_pickle_file(path))) < 2**20
    assert all((loaded[key] == int(key)).all().item() for key in arrays)


def test_missing_file_directory_and_pipe(tmp_path: Path) -> None:
    for load in (load_torch_file, load_pickle_file):
        with pytest.raises(FileNotFoundError, match="none.pth"):
            load(tmp_path / "none.pth")
        fails(tmp_path, "this is a directory", load=load)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        fails(tmp_path / "pipe", "not a regular file")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "looks like HTML.*download"),
        (b"\xef\xbb\xbf\n  <html>\n<head>", "looks like HTML"),
        (b"404: Not Found", "text file that begins 404"),
        (b'{"error": "rate limit"}', "text file"),
        (struct.pack("<Q", 40) + b'{"a":{"dtype":"F32"}}'.ljust(40) + bytes(64), "safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (b"\xfd7zXZ\0\0", "xz data"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\1\0", "npy"),
        (b"\xff\xd8\xff\xe0" * 9, "a JPEG picture"),
        (b"\0" * 100, "opcode"),
        (b"\x80\x02", "cut short"),
        (b"\x80\x09N.", "protocol 0 to 5, got 9"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, match: str) -> None:
    fails(put(tmp_path, data), match)
    fails(put(tmp_path, data), match, load=load_pickle_file)


def test_each_reader_names_the_other(tmp_path: Path) -> None:
    fails(GOLDENS / "torch_file_numpy2.pkl", "load_pickle_file")
    fails(GOLDENS / "torch_file_zip.pt", "load_torch_file", load=load_pickle_file)
    fails(GOLDENS / "torch_file_legacy.pt", "load_torch_file", load=load_pickle_file)
    fails(GOLDENS / "torch_file_script.pt", "TorchScript")


@pytest.mark.parametrize("file", ["zip", "legacy", "protocol4"])
def test_every_truncation_is_refused(tmp_path: Path, file: str) -> None:
    data = (GOLDENS / f"torch_file_{file}.pt").read_bytes()
    for end in [*range(1, 400, 7), *range(400, len(data), 331), len(data) - 1]:
        with pytest.raises(CheckpointError):
            load_torch_file(put(tmp_path, data[:end]))


def test_wrong_legacy_files(tmp_path: Path) -> None:
    ramp, big = [[0, 1, 2], [3, 4, 5]], struct.pack(">q", 6) + SIX
    equal(load_torch_file(put(tmp_path, legacy())), ramp)
    equal(load_torch_file(put(tmp_path, legacy(data=big, little=False))), ramp)
    other = legacy().replace(b"M\xe9\x03", b"M\xe8\x03", 1)
    for data, match in (
        (legacy(data=big), "expected 6"),
        (legacy()[:-1], "cut short: storage 0 needs 32 bytes"),
        (legacy()[:-30], "cut short"),
        (legacy(keys=[], data=b""), "each of the 1 storages once"),
        (legacy(keys=["0", "0"], data=SIX_LEGACY * 2), "each of the 1 storages once"),
        (legacy(keys=["0", "1"], data=SIX_LEGACY * 2), "each of the 1 storages once"),
        (legacy(keys="0"), "list of storage keys, got 0"),
        (legacy(keys=[["0"]]), "list of storage keys"),
        (legacy(data=struct.pack("<q", 5) + SIX), "has 5 elements, expected 6"),
        (legacy(data=struct.pack("<q", -1) + SIX), "expected 6"),
        (other, "protocol 1001, got 1000"),
    ):
        fails(put(tmp_path, data), match)
    fails(put(tmp_path, legacy(GOOD)), "persistent id", UnsafeCheckpointError)


def test_no_unpickler_and_no_torch_is_imported() -> None:
    code = (
        "import sys, os; from mlx_rcnn.convert.files.torch_file import load_torch_file as load\n"
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
