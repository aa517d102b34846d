"""Damaged files and random pickles: only CheckpointError or success, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_rcnn.convert.files.torch_file import CheckpointError, load_pickle_file, load_torch_file
from torch_pickles import (
    GOLDENS,
    GOOD,
    archive,
    call,
    group,
    legacy,
    name,
    numbers,
    put,
    storage,
    tensor,
    text,
    traced_peak,
)

# fmt: off
SMALL = b"".join((
    b"}(", text("a"), GOOD, text("b"), tensor(storage(), 2, numbers(2), numbers(2)), text("c"),
    call("collections", "OrderedDict"), b"}", text("_metadata"), b"Nsb", text("d"),
    b"](K\x01NG?\xf0\x00\x00\x00\x00\x00\x00", text("x"), b"eu",
))
PICKLES = [(GOLDENS / f"torch_file_numpy{protocol}.pkl").read_bytes() for protocol in (2, 5)]
FILES = [archive(SMALL), legacy(), *(
    (GOLDENS / f"torch_file_{kind}.pt").read_bytes() for kind in ("zip", "legacy", "protocol4")
)]
PIECES = [
    b"(", b")", b"]", b"}", b"\x8f", b"N", b"\x88", b"\x89", b"K\x00", b"K\x03", b"0", b"1", b"2",
    b"a", b"e", b"s", b"u", b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"\x90", b"\x91", b"\x93",
    b"R", b"b", b"Q", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"\x94", b"J\xff\xff\xff\xff",
    b"C\x04\0\0\x80?", text("storage"), text("0"), text("latin1"), numbers(2, 3), numbers(3, 1),
    storage(), GOOD, name("collections", "OrderedDict"), name("torch", "FloatStorage"),
    name("torch", "Size"), name("torch", "device"), name("torch", "float32"),
    name("torch._utils", "_rebuild_tensor_v2"), name("torch._utils", "_rebuild_tensor_v3"),
    name("torch._utils", "_rebuild_parameter"), name("torch._tensor", "_rebuild_from_type_v2"),
    name("numpy", "dtype"), name("numpy", "ndarray"), name("builtins", "set"),
    name("numpy.core.multiarray", "_reconstruct"), name("numpy.core.multiarray", "scalar"),
    name("numpy.core.numeric", "_frombuffer"), name("_codecs", "encode"),
    name("numpy", "dtype") + group(text("f4"), b"\x89", b"\x88") + b"R",
]
# fmt: on

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def survive(path: Path, load: Callable[[Path], Any]) -> None:
    def attempt() -> None:
        try:
            load(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()

    size = path.stat().st_size
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    assert traced_peak(attempt) < 8 * size + 2**21
    assert mx.get_peak_memory() - before < 4 * size + 2**20


@FUZZ
@given(
    which=st.integers(0, len(FILES) + len(PICKLES) - 1),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=9)), max_size=4),
    cut=st.tuples(st.floats(0, 1), st.just(0) | st.floats(0, 0.1)),
    early=st.booleans(),
)
def test_mutated_files(
    tmp_path: Path,
    which: int,
    edits: list[tuple[float, bytes]],
    cut: tuple[float, float],
    early: bool,
) -> None:
    data = bytearray([*FILES, *PICKLES][which])
    for where, patch in edits:
        # Most of a file is padding and storages: half of the examples aim at its pickle.
        at = int(where * (min(len(data), 2500) if early else len(data)))
        data[at : at + len(patch)] = patch
    at = int(cut[0] * len(data))
    del data[at : at + int(cut[1] * len(data))]
    load = load_torch_file if which < len(FILES) else load_pickle_file
    survive(put(tmp_path, data), load)


@FUZZ
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_random_pickles(tmp_path: Path, pieces: list[bytes]) -> None:
    survive(put(tmp_path, archive(b"".join(pieces))), load_torch_file)
