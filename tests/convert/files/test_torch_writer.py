"""Files for torch and detectron2: read back bit for bit, by our readers and by pickle."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.convert.files.torch_file import load_pickle_file, load_torch_file
from mlx_rcnn.convert.files.torch_writer import save_pickle_file, save_torch_file

STATE = {
    "a.weight": mx.arange(24).reshape(2, 3, 2, 2).astype(mx.float32),
    "half": mx.array([1.5, -2.0, float("nan"), float("inf")], mx.float16),
    "count": mx.array(2**40, mx.int64),
    "none": mx.zeros((0, 3)),
    "flags": mx.array([True, False]),
    "small": mx.array([[-1], [127]], mx.int8),
    "bytes": mx.array([0, 255], mx.uint8),
    "short": mx.array([-300], mx.int16),
    "int": mx.array([1, -(2**31)], mx.int32),
    "moved": mx.arange(6).reshape(2, 3).astype(mx.float32).T,
}
BRAIN = {"brain": mx.array([1.0, 3e38], mx.bfloat16)}


def equal(got: dict[str, mx.array], expected: dict[str, mx.array]) -> None:
    assert list(got) == list(expected)
    for key, value in expected.items():
        assert got[key].dtype == value.dtype and got[key].shape == value.shape
        assert mx.array_equal(got[key], value, equal_nan=value.dtype != mx.bool_)


def test_torch_file_reads_back(tmp_path: Path) -> None:
    save_torch_file(STATE | BRAIN, tmp_path / "f.pth")
    equal(load_torch_file(tmp_path / "f.pth"), STATE | BRAIN)


@pytest.mark.parametrize(
    ("save", "load", "name"),
    [(save_torch_file, load_torch_file, "f.pth"), (save_pickle_file, load_pickle_file, "f.pkl")],
)
def test_what_may_stand_around(tmp_path: Path, save, load, name: str) -> None:
    around = {
        "__author__": "é",
        "epoch": 300,
        "small": 255,
        "low": -1,
        "huge": 2**70,
        "lr": -1.5e-300,
        "n": None,
        "t": True,
        "f": False,
        "e": {},
    }
    save({"model": STATE, **around}, tmp_path / name)
    got = load(tmp_path / name)
    equal(got.pop("model"), STATE)
    assert got == around and type(got["t"]) is bool


@settings(deadline=None)
@given(st.integers(-(2**80), 2**80))
def test_integers(value: int) -> None:
    from mlx_rcnn.convert.files.torch_writer import _int

    assert pickle.loads(b"\x80\x04" + _int(value) + b".") == value


def test_python_reads_the_pickle_and_may_write_to_it(tmp_path: Path) -> None:
    save_pickle_file({"model": STATE}, tmp_path / "f.pkl")
    with (tmp_path / "f.pkl").open("rb") as file:
        model = pickle.load(file, encoding="latin1")["model"]  # as detectron2 does
    for key, value in STATE.items():
        np.testing.assert_array_equal(model[key], np.array(value), strict=True)
        assert model[key].flags.writeable and model[key].flags.c_contiguous


def test_only_tensors_are_named(tmp_path: Path) -> None:
    """Names that torch.load(weights_only=True) allows, and modules of NumPy 1 and 2."""
    save_torch_file(STATE | BRAIN, tmp_path / "f.pth")
    with zipfile.ZipFile(tmp_path / "f.pth") as archive:
        assert archive.testzip() is None  # checksums
        data = archive.read("archive/data.pkl")
        assert archive.read("archive/version") == b"3\n"
        for info in archive.infolist():
            archive.fp.seek(info.header_offset)
            header = archive.fp.read(30)
            at = info.header_offset + 30 + sum(np.frombuffer(header[26:30], "<u2").tolist())
            assert at % 64 == 0 and info.compress_type == zipfile.ZIP_STORED
    named = {arg for op, arg, _ in pickletools.genops(data) if op.name == "GLOBAL"}
    kinds = ("Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
    assert named == {
        "torch._utils _rebuild_tensor_v2",
        "collections OrderedDict",
        *(f"torch {kind}Storage" for kind in kinds),
    }
    save_pickle_file(STATE, tmp_path / "f.pkl")
    ops = pickletools.genops((tmp_path / "f.pkl").read_bytes())
    assert {arg for op, arg, _ in ops if op.name == "GLOBAL"} == {
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    }


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_torch_file(STATE, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"a": [1]}, "a list"),
        ({1: mx.array(1)}, "the key 1"),
        ({"a": object()}, "an? object"),
        ({"a": mx.array(1, mx.uint32)}, "uint32"),
        ({"a": np.zeros(2)}, "ndarray"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: dict, what: str) -> None:
    for save in (save_torch_file, save_pickle_file):
        with pytest.raises(TypeError, match=f"cannot write .*{what}"):
            save(content, tmp_path / "f")


def test_numpy_has_no_bfloat16(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="bfloat16"):
        save_pickle_file(BRAIN, tmp_path / "f.pkl")
