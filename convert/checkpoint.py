"""A checkpoint file of another library, read and recognised."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from mlx_rcnn.messages import listing

from .files.safetensors_file import load_safetensors
from .files.state_dict import state_dict_of
from .files.torch_file import load_pickle_file, load_torch_file, read_extra
from .libraries.architecture import Recognised, hints_of
from .libraries.names import may_be_coco
from .libraries.recognise import beside, knows, library_of, recognise, unprefixed
from .origin import Origin, make_origin
from .published import is_published
from .rename import rename
from .settings import NOTE, stored_settings, with_settings


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


def read_checkpoint(
    path: Path,
    library: str = "auto",
    style: str | None = None,
    state: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> Checkpoint:
    """Read a checkpoint file and tell what it is.

    Args:
        path: a file of ``torch.save``, a pickle of NumPy arrays, or safetensors.
        library: a key of ``mlx_rcnn.convert.libraries.recognise.LIBRARIES``, or ``"auto"``.
        style: mmdetection's ``"pytorch"`` or ``"caffe"``. Default: ``None``, by the file's config
            or name.
        state: the key or the part its weights are under, where the file holds several networks.
            Default: ``None``, the only one, or that under the usual names.
        settings: config fields that the caller knows, where keys and shapes do not tell; the
            checkpoint is recognised with them. Default: none.

    Returns:
        Its weights by our names. Tensors beside the network are left out, with a warning.

    Raises:
        ValueError: not a checkpoint, or not of a network this package knows.
    """
    whole, content = read_state(path, state)
    try:
        arrays = unprefixed(whole)
        extra = beside(arrays, library_of(arrays, library))
        network = {key: value for key, value in arrays.items() if key not in set(extra)}
        stored = stored_settings(path, network, _note(path, content))
        known = {**(stored.fields() if stored else {}), **(settings or {})}
        hints = hints_of(content, path.name, style)._replace(settings=known)
        found = recognise(arrays, library, hints)
        if "class_names" not in found.detector and may_be_coco(found) and is_published(path):
            found = recognise(arrays, library, hints._replace(coco=True))
        found = with_settings(found, path, stored)
        arrays = network
        renamed = rename(arrays, found.rules, hints.field(found.detector, "pool_size", (7, 7)))
        origin = make_origin(found.library, path.name, arrays, renamed, found.rules)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    extra += [k for k in whole if not any(k.endswith(key) for key in arrays) and k not in extra]
    if extra:
        warnings.warn(
            f"{path}: left out, as no part of the network: {listing(extra)}", stacklevel=2
        )
        found = found._replace(note=f"{found.note}; {len(extra)} tensors beside it left out")
    return Checkpoint(path, arrays, found, renamed.weights, origin)


def read_state(path: Path, pick: str | None = None) -> tuple[dict[str, mx.array], object]:
    """The state dict of another library's checkpoint, and all that its file holds."""
    # a file of ``torch.save``, a pickle of NumPy arrays, or safetensors
    if path.suffix == ".safetensors":
        state, metadata = load_safetensors(path)
        if metadata.get("format") == "mlx":
            raise ValueError(f"{path} holds MLX weights: give its directory, with its config.json")
        return state_dict_of(state, str(path), pick, knows), metadata
    read = load_pickle_file if _is_plain_pickle(path) else load_torch_file
    content = read(path)
    return state_dict_of(content, str(path), pick, knows), content


def _note(path: Path, content: object) -> str | None:
    """The settings that the file itself carries."""
    if isinstance(content, dict) and isinstance(content.get(NOTE), str):
        return str(content[NOTE])
    return None if path.suffix == ".safetensors" else read_extra(path, NOTE)


def _is_plain_pickle(path: Path) -> bool:
    """A pickle of binary protocol that does not begin with torch's magic number."""
    if not path.is_file():  # opening a pipe would wait for ever; the reader says what it is
        return False
    with path.open("rb") as file:
        head = file.read(16)
    return head[:1] == b"\x80" and b"l\xfc\x9cF\xf9 j\xa8P\x19" not in head
