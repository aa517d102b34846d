"""Reads files of ``torch.save`` and pickles of NumPy arrays, without torch and without trust.

Nothing a file names is run; only plain containers, numbers, strings and arrays come out. Memory is
bounded by the file's size whatever the file declares: arrays take at most 4 times it plus 1 MiB
(once for real checkpoints; more only for expanded tensors), the rest 4 times plus 16 MiB.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .foreign import what_is, what_pickle, what_zip
from .pickle_names import STORAGES, container_names, numpy_names, torch_names
from .safe_values import (
    Budget,
    CheckpointError,
    Global,
    Opaque,
    UnsafeCheckpointError,
    describe,
    finish,
    refused,
)
from .stored_zip import read_stored_zip
from .tensors import ArrayFactory, Storage, StorageSlice
from .unpickle import Unpickler

__all__ = [
    "CheckpointError",
    "UnsafeCheckpointError",
    "load_pickle_file",
    "load_torch_file",
    "read_extra",
]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ZIP = b"PK\3\4"


def load_torch_file(path: str | os.PathLike[str]) -> object:
    """What ``torch.save`` wrote, its tensors as ``mx.array`` of torch's axis order."""
    # float64 becomes float32; ``OrderedDict`` and ``Counter`` dict, ``torch.Size`` tuple,
    # ``torch.device`` and ``torch.dtype`` strings such as ``"cuda:0"``, NumPy scalars Python
    # numbers, an object of any other class an :class:`Opaque`. A tensor of two names is one array.
    with _opened(path) as data:
        factory, budget = ArrayFactory(len(data)), Budget(4 * len(data) + 2**24, "its objects")
        # A pickle that calls anything else is an UnsafeCheckpointError: nothing is run.
        if bytes(data[:4]) == _ZIP:
            # the default since torch 1.6
            return finish(_some_use(_read_zip(data, factory, budget)))
        # the format before it, in which torchvision's weights of 2019 are published
        return finish(_read_legacy(data, factory, budget))


def read_extra(path: str | os.PathLike[str], name: str) -> str | None:
    """A text that lies beside the tensors of a ``torch.save`` file; ``None`` without one."""
    with _opened(path) as data:
        if bytes(data[:4]) != _ZIP:
            return None
        archive = read_stored_zip(data, Budget(4 * len(data) + 2**24, "its objects"))
        found = (v for k, v in archive.items() if k.partition("/")[2] == f"extra/{name}")
        contents = next(found, None)
        try:
            return None if contents is None else bytes(contents).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"its {name} is not UTF-8") from error


def load_pickle_file(path: str | os.PathLike[str]) -> object:
    """A plain pickle of NumPy arrays, as detectron2's zoo has, read as by ``load_torch_file``."""
    with _opened(path) as data:
        if bytes(data[:4]) == _ZIP:
            raise CheckpointError("expected a plain pickle, got a zip archive: use load_torch_file")
        budget = Budget(4 * len(data) + 2**24, "its objects")
        names = {**container_names(), **numpy_names(ArrayFactory(len(data)))}
        # protocol 1 to 5, strings of Python 2 read as latin1
        value = Unpickler(data, names, budget).load()
        if value == _MAGIC:
            raise CheckpointError("expected a plain pickle, this is for load_torch_file")
        return finish(_some_use(value))


def _some_use(value: object) -> object:
    """``value``, unless it is an object of an unknown class: nothing of it was read."""
    if isinstance(value, Opaque):
        raise refused(value.name)
    return value


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[memoryview]:
    """Maps a file into memory and puts its path before every complaint about it."""
    mode = os.stat(path).st_mode
    name = os.fspath(path)
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise CheckpointError(f"{name}: expected a checkpoint file, this is {kind}")
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise CheckpointError("expected a checkpoint, the file is empty (0 bytes)")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if what := what_is(data, os.path.basename(name)):
            raise CheckpointError(f"expected a checkpoint, got {what}")
        yield data
    except CheckpointError as error:
        raise type(error)(f"{name}: {error}") from error.__cause__
    except (ValueError, struct.error) as error:  # from decoding an opcode's argument
        raise CheckpointError(f"{name}: malformed pickle ({describe(str(error))})") from error


def _storage_id(saved: object, parts: int, limit: int) -> tuple[str, str, int, Any]:
    """dtype, key, number of elements and view of a storage's persistent id."""
    if type(saved) is not tuple or len(saved) != parts or saved[0] != "storage":
        raise UnsafeCheckpointError(f"refused the persistent id {describe(saved)}: not a storage")
    kind, key, _location, numel = saved[1:5]
    name = kind.name.rpartition(".")[2] if type(kind) is Global else None
    if name not in STORAGES or type(key) is not str:
        raise CheckpointError(f"expected a storage's type and key, got {describe((kind, key))}")
    if type(numel) is not int or not 0 <= numel <= limit:
        raise CheckpointError(
            f"storage {describe(key)} declares {describe(numel)} elements, the file has {limit} "
            "bytes"
        )
    return STORAGES[name], key, numel, saved[5] if parts == 6 else None


def _same(known: Storage, dtype: str, numel: int, key: str) -> None:
    if (known.dtype, known.numel) != (dtype, numel):
        raise CheckpointError(
            f"storage {describe(key)} is {known.numel} elements of {known.dtype} in one place and "
            f"{numel} of {dtype} in another"
        )


def _read_zip(data: memoryview, factory: ArrayFactory, budget: Budget) -> object:
    archive = read_stored_zip(data, budget)
    if what := what_zip(archive):
        raise CheckpointError(f"expected a checkpoint, got {what}")
    roots = [name.split("/")[0] for name in archive if name.partition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        first = describe(list(archive)[:4])
        raise CheckpointError(f"expected a torch.save archive with one data.pkl, it holds {first}")
    root = roots[0]
    if f"{root}/constants.pkl" in archive or any(n.startswith(f"{root}/code/") for n in archive):
        raise CheckpointError(
            "expected a file of torch.save, got a TorchScript archive (torch.jit.save): save the "
            "model's state_dict()"
        )
    entries = {name: contents for name, contents in archive.items() if contents is not None}
    for name in archive.keys() - entries.keys():
        raise CheckpointError(f"zip entry {name} is compressed: torch.save writes stored ones")
    order = bytes(entries.get(f"{root}/byteorder", b"little")[:16])
    if order not in (b"little", b"big"):
        raise CheckpointError(f"expected byte order little or big, got {describe(order)}")
    storages: dict[str, Storage] = {}

    def persistent_load(saved: object) -> StorageSlice:
        dtype, key, numel, _ = _storage_id(saved, 5, len(data))
        if key not in storages:
            contents = entries.get(f"{root}/data/{key}")
            found = -1 if contents is None else len(contents)
            storage = Storage(dtype, numel, contents, order == b"big")
            if found < storage.nbytes:
                got = "is not in the archive" if contents is None else f"has {found} bytes"
                raise CheckpointError(
                    f"storage {describe(key)} {got}: expected {storage.nbytes} bytes"
                )
            storages[key] = storage
        _same(storages[key], dtype, numel, key)
        return StorageSlice(storages[key], 0, numel)

    if what := what_pickle(entries[f"{root}/data.pkl"]):
        raise CheckpointError(f"expected a checkpoint, got {what}")
    names = torch_names(factory)
    return Unpickler(entries[f"{root}/data.pkl"], names, budget, persistent_load).load()


def _read_legacy(data: memoryview, factory: ArrayFactory, budget: Budget) -> object:
    """The format before torch 1.6: five pickles, then each storage's length and bytes."""
    names, position = torch_names(factory), 0
    storages: dict[str, Storage] = {}

    def persistent_load(saved: object) -> StorageSlice:
        dtype, key, numel, view = _storage_id(saved, 6, len(data))
        _same(storages.setdefault(key, Storage(dtype, numel)), dtype, numel, key)
        if view is None:
            return StorageSlice(storages[key], 0, numel)
        ok = type(view) is tuple and len(view) == 3 and all(type(i) is int for i in view[1:])
        if not ok or not 0 <= view[1] <= view[1] + view[2] <= numel or view[2] < 0:
            raise CheckpointError(f"storage {describe(key)} of {numel} has a view {describe(view)}")
        return StorageSlice(storages[key], view[1], view[2])

    def read(load: Callable[[object], object] | None = None) -> object:
        nonlocal position
        reader = Unpickler(data, names, budget, load, position)
        value = _some_use(reader.load())
        position = reader.position
        return value

    if read() != _MAGIC:
        raise CheckpointError("expected a torch.save file, got a pickle for load_pickle_file")
    protocol, info = read(), read()
    if protocol != _PROTOCOL or type(info) is not dict:
        raise CheckpointError(f"expected torch.save protocol {_PROTOCOL}, got {describe(protocol)}")
    value, keys = read(persistent_load), read()
    _locate(data, position, storages, keys, info.get("little_endian", True) is False)
    return value


def _locate(
    data: memoryview, at: int, storages: dict[str, Storage], keys: object, big_host: bool
) -> None:
    """Finds each storage's bytes, which follow the pickles in the order of ``keys``."""
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CheckpointError(f"expected the list of storage keys, got {describe(keys)}")
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        raise CheckpointError(
            f"expected each of the {len(storages)} storages once, got the keys {describe(keys)}"
        )
    for key in keys:
        storage = storages[key]
        length = bytes(data[at : at + 8])
        # Bytes are little endian on any machine, but old versions wrote the length as the host did.
        lengths = {int.from_bytes(length, "little")}
        if big_host:
            lengths.add(int.from_bytes(length, "big"))
        contents = data[at + 8 : at + 8 + storage.nbytes]
        if len(length) < 8 or len(contents) < storage.nbytes:
            raise CheckpointError(
                f"file is cut short: storage {describe(key)} needs {8 + storage.nbytes} bytes at "
                f"{at}, the file ends at {len(data)}"
            )
        if storage.numel not in lengths:
            raise CheckpointError(
                f"storage {describe(key)} has {min(lengths)} elements, expected {storage.numel}"
            )
        storage.data = contents
        at += 8 + storage.nbytes
