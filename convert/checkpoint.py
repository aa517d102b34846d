"""A checkpoint file of another library, read and recognised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from .files.safetensors_file import load_safetensors
from .files.state_dict import state_dict_of
from .files.torch_file import load_pickle_file, load_torch_file
from .libraries.architecture import Recognised, hints_of
from .libraries.recognise import recognise, unprefixed
from .origin import Origin, make_origin
from .rename import rename
from .settings import with_settings


class Checkpoint(NamedTuple):
    """A checkpoint file of another library.

    ``state``, its arrays by its keys; ``found``, what they were recognised as; ``weights``, the
    arrays by our names; ``origin``, what the way back needs besides.
    """

    path: Path
    state: Mapping[str, mx.array]
    found: Recognised
    weights: dict[str, mx.array]
    origin: Origin


def read_checkpoint(path: Path, library: str = "auto", style: str | None = None) -> Checkpoint:
    """Read a checkpoint file and tell what it is.

    Args:
        path: a file of ``torch.save``, a pickle of NumPy arrays, or safetensors.
        library: a key of ``mlx_rcnn.convert.libraries.recognise.LIBRARIES``, or ``"auto"``.
        style: mmdetection's ``"pytorch"`` or ``"caffe"``. Default: ``None``, by the file's config
            or name.

    Returns:
        Its weights by our names.

    Raises:
        ValueError: not a checkpoint, or not of a network this package knows.
    """
    state, content = read_state(path)
    state = unprefixed(state)
    try:
        found = recognise(state, library, hints_of(content, path.name, style))
        found = with_settings(found, path, state)
        renamed = rename(state, found.rules, found.detector.get("pool_size", (7, 7)))
        origin = make_origin(found.library, path.name, state, renamed, found.rules)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Checkpoint(path, state, found, renamed.weights, origin)


def read_state(path: Path) -> tuple[dict[str, mx.array], Any]:
    """The tensors of a checkpoint file of another library.

    Args:
        path: a file of ``torch.save``, a pickle of NumPy arrays, or safetensors.

    Returns:
        The state dict, and all that the file holds.

    Raises:
        ValueError: not a checkpoint, or one of this package.
    """
    if path.suffix == ".safetensors":
        state, metadata = load_safetensors(path)
        if metadata.get("format") == "mlx":
            raise ValueError(f"{path} holds MLX weights: give its directory, with its config.json")
        return state_dict_of(state, str(path)), metadata
    read = load_pickle_file if _is_plain_pickle(path) else load_torch_file
    content = read(path)
    return state_dict_of(content, str(path)), content


def _is_plain_pickle(path: Path) -> bool:
    """A pickle of binary protocol that does not begin with torch's magic number."""
    if not path.is_file():  # opening a pipe would wait for ever; the reader says what it is
        return False
    with path.open("rb") as file:
        head = file.read(16)
    return head[:1] == b"\x80" and b"l\xfc\x9cF\xf9 j\xa8P\x19" not in head
