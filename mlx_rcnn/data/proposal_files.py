"""Files of proposals: ``.npz``, which NumPy alone reads, and in which nothing is ever unpickled.

They are a zip of arrays: for each image ``boxes/NAME`` (P, 4) float32 xyxy in pixels and perhaps
``scores/NAME`` (P,) float32, and ``about``, JSON with the format's version and a note of how they
were made.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..files import replacing
from ..inputs.proposals import Proposed, as_proposed
from ..messages import one_line
from ..structures import ArrayLike
from .protocols import OnDisk

_VERSION = 1
_MOST_ROWS = 1_000_000  # of an image: files with more are damaged, and would fill the memory
_MOST_TEXT = 1 << 28  # bytes
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def image_names(dataset: OnDisk) -> list[str]:
    """What proposals call the images of a dataset, see :func:`write_proposals`.

    Args:
        dataset: with ``items`` that have a ``path``, as :class:`DetectionDataset`.

    Returns:
        For each image the name of its file without the folder, or where that repeats the path from
        the folder that all images share, with ``/``.
    """
    paths = [item.path for item in dataset.items]
    counts: dict[str, int] = {}
    for path in paths:
        counts[path.name] = counts.get(path.name, 0) + 1
    if len(counts) == len(paths):
        return [path.name for path in paths]
    whole = [os.path.abspath(path) for path in paths]
    shared = os.path.commonpath(whole)
    return [
        path.name if counts[path.name] == 1 else os.path.relpath(full, shared).replace(os.sep, "/")
        for path, full in zip(paths, whole, strict=True)
    ]


def write_proposals(
    path: str | os.PathLike[str],
    proposals: Mapping[str, Proposed | ArrayLike],
    note: Mapping[str, object] | None = None,
) -> None:
    """Write proposals as ``.npz``, whole or not at all.

    Args:
        path: the file, ending in ``.npz``; replaced once the new one is complete.
        proposals: by image, a :class:`Proposed` or boxes (P, 4) best first, xyxy in pixels. An
            image is called by the name of its file without the folder, or where names repeat by
            the end of its path with as many folders as make it one image's.
        note: how they were made, such as ``source`` and ``settings``; anything that JSON can say.
            Default: nothing.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
        ValueError: a path of another kind, a name that is none, or boxes or scores that are wrong;
            the image is named.
    """
    path = _npz(path)
    try:
        about = json.dumps({"format": _VERSION, "note": dict(note or {})}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"note: expected what JSON can say: {one_line(error)}") from error
    arrays = {"about": np.array(about)}
    for name, value in proposals.items():
        _check_name(name)
        boxes, scores = value if isinstance(value, Proposed) else (value, None)
        entry = as_proposed(boxes, scores, f"proposals of {name}")
        arrays[f"boxes/{name}"] = entry.boxes
        if entry.scores is not None:
            arrays[f"scores/{name}"] = entry.scores
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_proposals(path: str | os.PathLike[str]) -> dict[str, Proposed]:
    """Read what :func:`write_proposals` wrote.

    Args:
        path: the ``.npz``.

    Returns:
        The proposals by image; arrays are float32.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, holds other arrays, or a box or score is wrong; the file and the
            image are named.
    """
    return _read(Path(path))[0]


def read_note(path: str | os.PathLike[str]) -> dict[str, object]:
    """How the proposals of a ``.npz`` were made.

    Args:
        path: the file.

    Returns:
        The note that was given to :func:`write_proposals`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or no file of proposals.
    """
    return _read(Path(path), only_note=True)[1]


def _npz(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{path}: expected a name that ends in .npz")
    return path


def _check_name(name: str) -> None:
    good = isinstance(name, str) and bool(name) and "\0" not in name
    try:
        good = good and len(name.encode("utf-8")) < 32768
    except UnicodeEncodeError:
        good = False
    if not good:
        raise ValueError(f"image name {name!r}: expected text, the name of the image's file")


def _read(path: Path, only_note: bool = False) -> tuple[dict[str, Proposed], dict[str, object]]:
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return _open_archive(archive, path, only_note)
    except (FileNotFoundError, IsADirectoryError, PermissionError, _WrongFileError):
        raise
    # What zipfile, zlib and NumPy raise on bytes that are not theirs.
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        KeyError,
        MemoryError,
        NotImplementedError,
        OSError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"{path} is damaged, or no .npz of proposals: {one_line(error)}"
        ) from error


class _WrongFileError(ValueError):
    """What is wrong is said already."""


def _open_archive(
    archive: zipfile.ZipFile, path: Path, only_note: bool
) -> tuple[dict[str, Proposed], dict[str, object]]:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise _WrongFileError(f"{path} is damaged: an array comes up twice")
    if "about" not in members:
        raise _WrongFileError(
            f"{path} holds no 'about': expected a file that write_proposals wrote"
        )
    note = _note(_array(archive, members.pop("about"), f"{path}: about"), path)
    if only_note:
        return {}, note
    kinds: dict[str, dict[str, np.ndarray]] = {"boxes": {}, "scores": {}}
    for key, info in members.items():
        kind, _, name = key.partition("/")
        if kind not in kinds or not name:
            raise _WrongFileError(
                f"{path} holds an array {key!r}: expected 'boxes/NAME' and 'scores/NAME'"
            )
        kinds[kind][name] = _array(archive, info, f"{path}: {kind} of {name}")
    alone = kinds["scores"].keys() - kinds["boxes"].keys()
    if alone:
        raise _WrongFileError(f"{path}: {min(alone)} has scores, expected boxes too")
    out = {}
    for name, boxes in kinds["boxes"].items():
        try:
            out[name] = as_proposed(
                boxes, kinds["scores"].get(name), f"{path}: proposals of {name}"
            )
        except ValueError as error:
            raise _WrongFileError(str(error)) from error
    return out, note


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> np.ndarray:
    """One array, once its header is known to be honest: NumPy allocates what that says."""
    with archive.open(info) as file:
        read = _HEADERS.get(np.lib.format.read_magic(file))
        if read is None:
            raise _WrongFileError(f"{where}: expected an array of NumPy's format 1 or 2")
        shape, _, dtype = read(file)
    if dtype.hasobject or dtype.kind not in "fiuU":
        raise _WrongFileError(f"{where}: got an array of {dtype}, expected numbers")
    size = math.prod(shape) * dtype.itemsize
    most = _MOST_TEXT if dtype.kind == "U" else _MOST_ROWS * 4 * dtype.itemsize
    if min((0, *shape)) < 0 or size > most or size > info.file_size:
        raise _WrongFileError(
            f"{where}: got shape {shape} of {dtype} in {info.file_size} bytes, expected no more "
            f"than is there, and at most {_MOST_ROWS} rows"
        )
    with archive.open(info) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _note(about: np.ndarray, path: Path) -> dict[str, object]:
    try:
        content = json.loads(str(about[()])) if about.dtype.kind == "U" else None
    except (ValueError, RecursionError):
        content = None
    note = content.get("note") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(note, dict):
        raise _WrongFileError(f"{path}: about: expected JSON with a format and a note")
    if content.get("format") != _VERSION:
        raise _WrongFileError(
            f"{path}: format {content.get('format')!r}, expected {_VERSION}: was it written by a "
            "later mlx_rcnn?"
        )
    return note
