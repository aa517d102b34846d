"""Hostile pickles: nothing runs, one clear error each, memory bounded by the file."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_rcnn.convert.files.pickle_names import torch_names
from mlx_rcnn.convert.files.safe_values import Budget
from mlx_rcnn.convert.files.tensors import ArrayFactory, Storage, StorageSlice
from mlx_rcnn.convert.files.torch_file import (
    CheckpointError,
    UnsafeCheckpointError,
    load_pickle_file,
    load_torch_file,
)
from mlx_rcnn.convert.files.unpickle import Unpickler
from torch_pickles import (
    GOOD,
    archive,
    call,
    fails,
    group,
    legacy,
    name,
    number,
    numbers,
    put,
    storage,
    text,
    traced_peak,
)

ORDERED = name("collections", "OrderedDict")
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
NEW = b")\x81"  # class -> instance


class Call:
    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> Any:
        return self.reduced


def attacks(mark: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that would create ``mark``, and what the error must say."""
    shell, python = f"touch {mark}", f"open({str(mark)!r}, 'w')"
    run, args, system = text(shell), text(python), name("os", "system")
    typed, f4 = ("torch._tensor", "_rebuild_from_type_v2"), group(text("f4"), b"\x89\x88")
    # fmt: off
    return {
        "system": (system + run + b"\x85R", "refused os.system"),
        "eval": (name("builtins", "eval") + args + b"\x85R", "builtins.eval"),
        "exec of Python 2": (name("__builtin__", "exec") + args + b"\x85R", "__builtin__.exec"),
        "import": (call("builtins", "__import__", text("os")), "builtins.__import__"),
        "getattr": (call("builtins", "getattr", ORDERED, text("__init__")), "builtins.getattr"),
        "partial": (call("functools", "partial", system, run), "functools.partial"),
        "nested": (text("torch") + text("serialization.os.system") + b"\x93" + run + b"\x85R",
                   "torch.serialization.os.system"),
        "dotted": (text("collections") + text("OrderedDict.fromkeys") + b"\x93",
                   "collections.OrderedDict.fromkeys"),
        "method": (text("torch") + text("Tensor.__reduce_ex__") + b"\x93", "Tensor.__reduce_ex__"),
        "dunder": (text("collections") + text("__builtins__") + b"\x93", "__builtins__"),
        "memo swap": (system + b"q\x00" + ORDERED + b"q\x01h\x00" + run + b"\x85R", "os.system"),
        "numbers as names": (b"K\x01K\x02\x93", "two strings"),
        "number as name": (text("os") + b"K\x02\x93", "two strings"),
        "inst": (b"(" + run + b"ios\nsystem\n", "INST os.system"),
        "obj": (b"(" + system + run + b"o", "os.system"),
        "listed obj": (b"(" + ORDERED + b"o", "OBJ"),
        "newobj": (system + run + b"\x85\x81", "os.system"),
        "listed newobj": (ORDERED + NEW, "NEWOBJ"),
        "newobj_ex": (ORDERED + b")}\x92", "NEWOBJ_EX"),
        "ext1": (b"\x82\x01", "EXT1"),
        "ext2": (b"\x83\x01\x00", "EXT2"),
        "ext4": (b"\x84\x01\x00\x00\x00", "EXT4"),
        "persid": (b"Pos.system\n", "PERSID os.system"),
        "buffer": (b"\x97", "NEXT_BUFFER"),
        "readonly buffer": (b"N\x98", "READONLY_BUFFER"),
        "copyreg": (call("copyreg", "add_extension", text("os"), text("system"), b"K\1"),
                    "copyreg.add_extension"),
        "reconstructor": (call("copy_reg", "_reconstructor", ORDERED, ORDERED, b"N"),
                          "copy_reg._reconstructor"),
        "call of a string": (text("os.system") + run + b"\x85R", "a call of os.system"),
        "call of a list": (b"]" + run + b"\x85R", "a call of"),
        "call of a marker": (name("torch", "FloatStorage") + b")R", "a call of torch.FloatStorage"),
        "call of a result": (ORDERED + b")R" + run + b"\x85R", "a call of"),
        "call of a dtype": (name("torch", "float32") + run + b"\x85R", "a call of torch.float32"),
        "build of a name": (REBUILD + b"}" + text("__code__") + run + b"sb", "BUILD on torch._uti"),
        "build of slots": (ORDERED + b"N}" + text("build") + run + b"s\x86b", "BUILD on collect"),
        "build of a list": (b"]}b", "BUILD on"),
        "pickle.loads": (call("pickle", "loads", run), "pickle.loads"),
        "torch.load": (call("torch", "load", run), "torch.load"),
        "nested file": (call("torch.storage", "_load_from_bytes", run), "_load_from_bytes"),
        "tensor by other": (call(*typed, ORDERED, b"N", b")", b"N"), "tensor made by collections"),
        "Namespace": (name("argparse", "Namespace") + NEW + b"}b", "argparse.Namespace"),
        "SimpleNamespace": (name("types", "SimpleNamespace") + b")R}b", "types.SimpleNamespace"),
        "model": (name("torchvision.models.resnet", "ResNet") + NEW, "ResNet.*state_dict"),
        "object array": (call("numpy", "dtype", text("O8"), b"\x89", b"\x88"), "numpy.dtype of O8"),
        "structured array": (name("numpy", "dtype") + f4 + b"R" + group(
            b"K\3", text("|"), b"N", group(text("x")), b"}", b"K\0" * 3) + b"b",
            "numpy.dtype of state"),
        "array class": (call("numpy.core.multiarray", "_reconstruct",
                             name("numpy", "dtype"), numbers(0), text("b")), "class numpy.dtype"),
        "written by pickle": (pickle.dumps(Call(os.system, shell), 4)[2:-1], f"{os.name}.system"),
        "Python 2 by pickle": (pickle.dumps(Call(eval, python), 2)[2:-1], "__builtin__.eval"),
    }
    # fmt: on


@pytest.mark.parametrize("case", attacks(Path("x")))
def test_nothing_is_run(tmp_path: Path, case: str) -> None:
    mark = tmp_path / "ran"
    body, match = attacks(mark)[case]
    fails(put(tmp_path, archive(body)), match, UnsafeCheckpointError)
    fails(put(tmp_path, legacy(body)), match, UnsafeCheckpointError)
    plain = put(tmp_path, b"\x80\x04" + body + b".")
    fails(plain, match, UnsafeCheckpointError)
    # A pickle of arrays has no use for torch's names: they are refused before what is done to them.
    match = match if b"torch" not in body else "refused"
    fails(plain, match, UnsafeCheckpointError, load_pickle_file)
    assert not mark.exists()


def test_text_pickle_and_tensor_state(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = put(tmp_path, b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    fails(path, "os.system", UnsafeCheckpointError)
    fails(path, "os.system", UnsafeCheckpointError, load_pickle_file)
    fails(put(tmp_path, archive(GOOD + b"}b")), "BUILD on View", UnsafeCheckpointError)
    assert not mark.exists()


# fmt: off
MALFORMED = [
    b"R", b"b", b"0", b"1", b"2", b"a", b"e", b"s", b"u", b"t", b"\x85", b"\x93", b"Q", b"q\x00",
    b"\x94", b"h\x00", b"j\xff\xff\xff\xff", b"g99999999999\n", b"p-1\n", b"NN]R", b"]Na]Ns",
    b"}(Nu", b"}N(e", b"}]Ns", b"}}Ns", b"\x8f(]\x90", b"(]\x91", b"}N\x85\x85Ns",
    b"}" + GOOD + b"Ns", b"NN", b"(N",
    b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"\x8e" + b"\x7f" * 8, b"\x96" + b"\x7f" * 8,
    b"B\xff\xff\xff\x7f", b"T\xff\xff\xff\xff", b"T\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f",
    b"\x8b\xff\xff\xff\xff", b"\x8a\xff", b"\x95" + b"\xff" * 8, b"X\x01\x00\x00\x00\xff",
    b"Iabc\n", b"Fx\n", b"L" + b"9" * 5000 + b"L\n", b"S'abc\n", b"cab", b"c\xff\n\xff\n",
    b"V\\U99999999\n", b"NNN\xff", b"\x80\x7f", b"]q\x00h\x00a", b"]q\x00(h\x00h\x00e",
    b"}q\x00Nh\x00s", b"(](e" * 200, b"(" * 1000 + b"N", b"N" * 1000 + b"(" * 1000,
    ORDERED + b"N\x85R", ORDERED + b"](Ne\x85R", ORDERED + b"]R",
    name("builtins", "set") + b"]]a\x85R",
    call("_codecs", "encode", text("a"), text("utf-7")), call("torch", "Size", text("ab")),
    call("_codecs", "encode", text("€"), text("latin1")), call("torch", "device", b"]"),
    REBUILD + b")R", REBUILD + b"NR", call("torch._utils", "_rebuild_parameter", b"N", b"N", b"N"),
    call("numpy.core.multiarray", "scalar", b"N", b"N"),
    call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), numbers(0), text("b")),
]
PERSISTENT = [
    b"N", text("storage"), b")", group(text("storage")), group(text("module"), b"NNN"),
    group(text("storage"), b"N", text("0"), text("cpu"), number(6)),
    group(text("storage"), name("torch", "Tensor"), text("0"), text("cpu"), number(6)),
    group(text("storage"), name("torch", "FloatStorage"), b"]", text("cpu"), number(6)),
    group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"\x88"),
    group(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), text("6")),
    group(b"]" + text("storage") + b"a", b"NNNN"),
]
# fmt: on


@pytest.mark.parametrize("body", MALFORMED)
def test_malformed_pickles(tmp_path: Path, body: bytes) -> None:
    fails(put(tmp_path, archive(body)), ".")


@pytest.mark.parametrize("saved", PERSISTENT)
def test_persistent_id_junk(tmp_path: Path, saved: bytes) -> None:
    fails(put(tmp_path, archive(saved + b"Q")), "persistent id|storage")
    fails(put(tmp_path, legacy(saved + b"Q", [], b"")), "persistent id|storage")


def test_nesting_is_limited(tmp_path: Path) -> None:
    assert load_torch_file(put(tmp_path, archive(b"N" + b"\x85" * 99))) is not None
    for body in (b"N" + b"\x85" * 10**4, b"]" * 10**4 + b"a" * (10**4 - 1)):
        fails(put(tmp_path, archive(body)), "deep")
    # Each item holds the one before, 90 tuples deep: no path to a new container is long.
    link = b"h\x00" + b"\x85" * 90 + b"q\x00"
    fails(put(tmp_path, archive(b"](Nq\x00" + link * 50 + b"e")), "deep")
    # A key is hashed by recursion in C, which would overflow the stack.
    fails(put(tmp_path, archive(b"}N" + b"\x85" * 10**4 + b"Ns")), "as key")
    for key in (b"K\1\x85", number(2**61 - 1), number(-(2**61))):  # could all collide
        fails(put(tmp_path, archive(b"}" + key + b"Ns")), "as key")
    laughs = b"]q\x000" + b"(h\x00h\x00lq\x000" * 60 + b"h\x00"  # 2^60 leaves in 60 lists
    assert len(load_torch_file(put(tmp_path, archive(laughs)))) == 2


def one_element_views(n: int) -> bytes:
    head = storage() + b"q\x00" + name("torch._utils", "_rebuild_tensor") + b"q\x01"
    views = (b"h\x01(h\x00J" + struct.pack("<i", i) + b"(K\x00tK\x00\x85tR" for i in range(n))
    return b"(" + head + b"".join(views) + b"l"


def long_text(raw: bytes) -> bytes:
    return b"\x8d" + struct.pack("<Q", len(raw)) + raw


N = 20_000
# fmt: off
AMPLIFIERS = {
    "sets": b"\x8f" * N, "lists": b"]" * N, "dicts": b"}" * N, "marks": b"(" * N,
    "dicts of one": b"}NNs" * N, "sets of one": b"\x8f(N\x90" * N, "lists of one": b"]Na" * N,
    "lists of six": b"](NNNNNNe" * N, "frozen sets": b"(\x91" * N, "tuples": b"N\x85" * 4 * N,
    "memo": b"N\x94" * N, "memo far away": b"N" + b"".join(
        b"r" + struct.pack("<I", 2**32 - 1 - i) for i in range(N)),
    "integers": b"J\x00\x00\x00\x01" * 4 * N, "strings": b"\x8c\x02\xc3\xa9" * 2 * N,
    "bytes": b"C\x02ab" * 2 * N, "calls": ORDERED + b"q\x00" + b"h\x00)R" * N,
    "encoding": long_text(b"x" * 5000) + b"q\x00" + name("_codecs", "encode") + b"q\x01"
        + (b"h\x01h\x00" + text("latin1") + b"\x86R") * 1000,
    "set calls": b"(" + b"".join(number(i) for i in range(1000)) + b"lq\x00"
        + name("builtins", "set") + b"q\x01" + b"h\x01h\x00\x85R" * 1000,
    "wide text": long_text(b"x" * 10**6 + "😀".encode()),
    "views": one_element_views(N),
}
# fmt: on


@pytest.mark.parametrize("case", AMPLIFIERS)
def test_objects_are_bounded(case: str) -> None:
    """Opcodes that make much of few bytes: the prices cover what CPython really takes."""
    data = memoryview(AMPLIFIERS[case])
    factory = ArrayFactory(2**40)
    where = StorageSlice(Storage("float32", N), 0, N)

    def load() -> None:
        with pytest.raises(CheckpointError, match="it would take more than 2000000 bytes"):
            Unpickler(data, torch_names(factory), Budget(2 * 10**6, "it"), lambda _: where).load()

    # The value that goes past the limit has been made: a text is its bytes and 4 times them.
    assert traced_peak(load) < 2 * 10**6 + (5 * len(data) if case == "wide text" else 10**5)


@pytest.mark.parametrize(
    "body",
    [b"\x8f" * 10**5, b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6, one_element_views(6)],
)
def test_files_are_bounded(tmp_path: Path, body: bytes) -> None:
    path = put(tmp_path, archive(body))
    size = path.stat().st_size
    mx.reset_peak_memory()
    before = mx.get_active_memory()

    def load() -> None:
        with contextlib.suppress(CheckpointError):
            load_torch_file(path)

    assert traced_peak(load) < 4 * size + 2**24
    assert mx.get_peak_memory() - before < 4 * size + 2**20
