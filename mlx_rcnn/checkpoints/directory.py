"""A model's directory: ``config.json`` and ``model.safetensors``, one model at every moment.

Two files cannot be renamed in one step, so that one of them decides: ``model.safetensors`` holds
the config too, in its metadata, and is renamed first. ``config.json`` is the copy for people and
for the Hub. Both carry the same ``config_id``, a digest of weights and config, that a change of a
setting by hand leaves alone: where it agrees ``config.json`` counts, with whatever was changed in
it; where it does not, a writer was stopped between the two, and the metadata counts.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_rcnn.convert.files.safetensors_file import load_safetensors

from ..files import flush, replacing
from ..messages import listing
from .weights import add_to_digest

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
CONFIG_KEY, ID = "config", "config_id"
NEEDED = ("model_type", "format_version", "source", "backbone")
_TRIES, _PAUSE = 6, 0.05  # for a writer that is between its two renames, seconds


class Stored(NamedTuple):
    """A model as it was read: its ``config``, the ``file`` that came from, and its ``weights``."""

    config: dict[str, Any]
    file: Path
    weights: dict[str, mx.array]


def write_model(
    directory: Path, config: Mapping[str, object], weights: Mapping[str, mx.array]
) -> None:
    """Write a model, or replace the one there is, whole even if killed at any moment."""
    metadata = {"format": "mlx", CONFIG_KEY: json.dumps(config), ID: _digest(config, weights)}
    text = json.dumps({**config, ID: metadata[ID]}, indent=2) + "\n"
    # Killed, or out of space, :func:`read_model` gives the old one or this one, also to those who
    # read meanwhile.
    fresh = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(directory / CONFIG_FILE) as part:
            part.write_text(text, encoding="utf-8")
            flush(part)  # with the weights in place it is too late to find the disk full
            with replacing(directory / WEIGHTS_FILE) as file:
                write_arrays(file, weights, metadata)
    except BaseException:
        if fresh and not any(directory.iterdir()):
            directory.rmdir()
        raise


def write_arrays(path: Path, arrays: Mapping[str, mx.array], metadata: dict[str, str]) -> None:
    """Write a safetensors file; an OSError if it cannot be, as on a full disk."""
    try:
        mx.save_safetensors(str(path), dict(arrays), metadata=metadata)
    except RuntimeError as error:  # MLX's, of a full disk
        raise OSError(f"cannot write {path}: {error}") from error
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size != (whole := 8 + header + sum(v.nbytes for v in arrays.values())):
        raise OSError(f"cannot write {path}: {size} of {whole} bytes are there, is the disk full?")


def read_model(directory: Path) -> Stored:
    """Read a model's directory; FileNotFoundError without one, ValueError for a damaged file."""
    for tries in range(_TRIES):
        weights, metadata = _weights(directory)
        inside = metadata.get(CONFIG_KEY)
        beside = _beside(directory, required=inside is None)
        if inside is None and beside is not None:  # an older one has no config in the metadata
            if ID not in beside or tries == _TRIES - 1:  # weights saved by other means
                return Stored(beside, directory / CONFIG_FILE, weights)
        elif inside is not None:
            file = directory / WEIGHTS_FILE
            own = _checked(inside, file)
            if beside is not None and beside.get(ID) == metadata.get(ID):
                return Stored(beside, directory / CONFIG_FILE, weights)
            if tries == _TRIES - 1:
                if beside is not None:
                    warnings.warn(
                        f"{directory / CONFIG_FILE} was not written with {WEIGHTS_FILE} beside it "
                        "(was saving stopped?): the settings stored with the weights are used; "
                        "save the model again to write both",
                        stacklevel=3,
                    )
                return Stored(own, file, weights)
        time.sleep(_PAUSE)
    raise AssertionError("unreachable")


def _weights(directory: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """Weights and metadata of one file, even if another takes its name meanwhile."""
    what = f"expected a directory written by mlx_rcnn.save{_looks_like(directory)}"
    if not (directory / WEIGHTS_FILE).is_file():
        lacking = WEIGHTS_FILE if (directory / CONFIG_FILE).is_file() else CONFIG_FILE
        raise FileNotFoundError(f"{directory} has no {lacking}: {what}")
    return load_safetensors(directory / WEIGHTS_FILE)


def _looks_like(directory: Path) -> str:
    """What other tools' directories are, for the message."""
    for name, what in (
        ("saved_model.pb", "a SavedModel of TensorFlow"),
        ("Manifest.json", "a package of Core ML"),
        ("data.pkl", "an unpacked file of torch.save"),
    ):
        if (directory / name).is_file():
            return f", got {what}"
    return ""


def _beside(directory: Path, required: bool) -> dict[str, Any] | None:
    """What config.json holds; ``None`` without one."""
    file = directory / CONFIG_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if required:
            raise FileNotFoundError(
                f"{directory} has no {CONFIG_FILE}: expected a directory written by mlx_rcnn.save"
            ) from None
        return None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    return _checked(text, file)


def _checked(text: str, file: Path) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, expected a config of mlx_rcnn")
    if lacking := [name for name in NEEDED if name not in content]:
        raise ValueError(f"{file} is no config of mlx_rcnn: it has no {listing(lacking)}")
    return content


def _digest(config: Mapping[str, object], weights: Mapping[str, mx.array]) -> str:
    """Of the same config and weights always the same."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    add_to_digest(digest, weights)
    return digest.hexdigest()[:32]
