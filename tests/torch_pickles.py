"""Hand-made files of torch.save, good and hostile, for the tests of mlx_rcnn.convert's readers."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.convert.files.torch_file import CheckpointError, load_torch_file

GOLDENS = Path(__file__).parent / "goldens"
MAGIC = 0x1950A86A20F9469CFC6C
SIX = np.arange(6, dtype="<f4").tobytes()
SIX_LEGACY = struct.pack("<q", 6) + SIX
NO_VIEW = b"N"  # the last part of a persistent id in the legacy format


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def group(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def numbers(*values: int) -> bytes:
    return group(*(number(v) for v in values))


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def call(module: str, attribute: str, *args: bytes) -> bytes:
    return name(module, attribute) + group(*args) + b"R"


def storage(key: str = "0", numel: int = 6, kind: str = "FloatStorage", *view: bytes) -> bytes:
    saved = (text("storage"), name("torch", kind), text(key), text("cpu"), number(numel), *view)
    return group(*saved) + b"Q"


def tensor(where: bytes, offset: bytes | int, size: bytes, stride: bytes) -> bytes:
    offset = number(offset) if isinstance(offset, int) else offset
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", where, offset, size, stride, b"\x89", hooks)


GOOD = tensor(storage(), 0, numbers(2, 3), numbers(3, 1))  # [[0, 1, 2], [3, 4, 5]]
GOOD_LEGACY = tensor(storage("0", 6, "FloatStorage", NO_VIEW), 0, numbers(2, 3), numbers(3, 1))


def archive(
    body: bytes = GOOD, data: dict[str, bytes] | None = None, extra: dict[str, bytes] | None = None
) -> bytes:
    """A file of the zip format whose pickle is ``body``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("model/data.pkl", b"\x80\x02" + body + b".")
        for key, value in ({"0": SIX} if data is None else data).items():
            file.writestr(f"model/data/{key}", value)
        for key, value in (extra or {}).items():
            file.writestr(key, value)
    return out.getvalue()


def legacy(
    body: bytes = GOOD_LEGACY, keys: Any = ("0",), data: bytes = SIX_LEGACY, little: bool = True
) -> bytes:
    """A file of the legacy format whose pickle is ``body``."""
    keys = list(keys) if isinstance(keys, tuple) else keys
    info = {"protocol_version": 1001, "little_endian": little}
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, info))
    return head + b"\x80\x02" + body + b"." + pickle.dumps(keys, 2) + data


def put(folder: Path, data: bytes) -> Path:
    path = folder / "file.pth"
    path.write_bytes(data)
    return path


def fails(
    path: Path,
    match: str,
    kind: type[CheckpointError] = CheckpointError,
    load: Callable[[Any], Any] = load_torch_file,
) -> None:
    """Checks that ``path`` is refused in one line that starts with it."""
    with pytest.raises(kind, match=match) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < 700 + len(str(path)) and message.isprintable()


def equal(got: mx.array, expected: Any, dtype: mx.Dtype = mx.float32) -> None:
    expected = np.asarray(expected)
    assert isinstance(got, mx.array) and got.dtype == dtype and got.shape == expected.shape
    got = got.astype(mx.float32) if dtype == mx.bfloat16 else got
    np.testing.assert_array_equal(np.array(got), expected)


def traced_peak(function: Callable[[], object]) -> int:
    """Most bytes that Python and NumPy (not MLX) held at once for ``function``."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
