"""Writes the torch_file_* goldens of tests/convert/files/test_torch_file.py.

Needs torch >= 2.3 and NumPy 2: ``python tests/goldens/make_torch_files.py``. The tests know the
contents from the rules here, so nothing else is stored.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
SIGNED = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8")
UNSIGNED = ("uint64", "uint32", "uint16")  # only the zip format takes them


def contents(legacy: bool) -> dict[str, Any]:
    """One value of each kind that the reader promises to read."""
    out: dict[str, Any] = collections.OrderedDict()
    ramp = torch.arange(6).reshape(2, 3)
    for name in SIGNED:
        out[f"dtype.{name}"] = (ramp - 2).to(getattr(torch, name))
    for name in ("uint8", "bool", *(() if legacy else UNSIGNED)):
        out[f"dtype.{name}"] = (ramp % 2 if name == "bool" else ramp).to(getattr(torch, name))
    base = torch.arange(12.0).reshape(3, 4)
    out["view.base"] = base
    out["view.transposed"] = base.t()
    out["view.sliced"] = base[1:, ::2]
    out["view.row"] = base[2]
    out["view.element"] = base[1, 3]
    out["view.expanded"] = base[:, 1:2].expand(2, 3, 4)
    out["view.channels_last"] = (
        torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    )
    out["view.tied"] = base
    out["scalar"] = torch.tensor(3.5)
    out["empty"] = torch.zeros(0, 3)
    out["ones"] = torch.arange(3.0).reshape(1, 3, 1)
    out["parameter"] = torch.nn.Parameter(torch.arange(4.0))
    out["parameter.attribute"] = torch.nn.Parameter(torch.arange(2.0))
    out["parameter.attribute"].note = "ignored"
    out["attribute"] = torch.arange(5.0)
    out["attribute"].note = "ignored"
    out._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    out["plain"] = {
        "list": [1, -2, 2**70, 1.5, True, False, None],
        "tuple": ("a", ("é", 2)),
        "set": {1, 2, "x"},
        "frozenset": frozenset({3}),
        "bytes": b"ab\xff" * 2,
        "no bytes": b"",
        "long bytes": bytes(range(128)) * 9,
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda", 1),
        "dtype": torch.float16,
        "counter": collections.Counter({8: 1, 11: 2}),
        "ordered": collections.OrderedDict(a=1),
        0: "integer key",
    }
    out["numpy"] = arrays()
    return out


def arrays() -> dict[str, Any]:
    """NumPy arrays and scalars as detectron2's files hold them."""
    return {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">f4"),
        "long": np.arange(600, dtype=np.float32),
        "bool": np.array([True, False]),
        "0-d": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float64(0.1),
        "flag": np.bool_(True),
        "dtype": np.dtype("float32"),
    }


def big_endian(source: bytes) -> bytes:
    """The same archive as a big-endian machine writes it."""
    seen: dict[int, int] = {}  # storage -> bytes of an element, in the order torch numbers them
    for value in torch.load(io.BytesIO(source), weights_only=False).values():
        if isinstance(value, torch.Tensor):
            seen.setdefault(value.untyped_storage()._cdata, value.element_size())
    sizes = list(seen.values())
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data, (_, _, name) = old.read(info), info.filename.partition("/")
            if name == "byteorder":
                data = b"big"
            elif name.startswith("data/"):
                data = np.frombuffer(data, f"u{sizes[int(name[5:])]}").byteswap().tobytes()
            new.writestr(zipfile.ZipInfo(info.filename), data)
    return target.getvalue()


def same(first: bytes, second: bytes) -> None:
    """Checks that torch itself reads the same tensors from both."""
    other = torch.load(io.BytesIO(second), weights_only=False)
    for key, value in torch.load(io.BytesIO(first), weights_only=False).items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, other[key]), key


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def main() -> None:
    legacy = saved(contents(True), _use_new_zipfile_serialization=False)
    # A file of a big-endian machine says so, but its bytes are little endian all the same; the
    # test changes this byte too.
    at = legacy.index(b"\x88", legacy.index(b"little_endian"))
    same(legacy, legacy[:at] + b"\x89" + legacy[at + 1 :])
    # torch does not swap the bytes of UNSIGNED's untyped storages, so they stay out of this one.
    little = saved(contents(True))
    same(little, big_endian(little))
    files = {
        "zip.pt": saved(contents(False)),
        "protocol4.pt": saved(contents(False), pickle_protocol=4),
        "big_endian.pt": big_endian(little),
        "legacy.pt": legacy,
        "numpy2.pkl": pickle.dumps({"model": arrays(), "__author__": "test"}, protocol=2),
        "numpy5.pkl": pickle.dumps({"model": arrays(), "__author__": "test"}, protocol=5),
    }
    for name, data in files.items():
        (HERE / f"torch_file_{name}").write_bytes(data)
    torch.jit.save(torch.jit.script(torch.nn.Identity()), HERE / "torch_file_script.pt")


if __name__ == "__main__":
    main()
