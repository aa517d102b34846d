"""What a checkpoint's tensors cannot say, in a small JSON file beside it.

Keys and shapes tell a network's layers, not its groups of a norm, input sizes, thresholds or names.
What this package writes for another library therefore has ``NAME.json`` beside ``NAME``, which the
other library never looks at, and which is read again if it is there and belongs to the tensors.

The checkpoint carries the same text inside: renaming it replaces the whole model. The file beside
is for people, who may change it, and for a checkpoint that another library has written again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from .libraries.architecture import Recognised

KIND, TENSORS, ID = "mlx_rcnn settings", "tensors", "settings_id"
NOTE = "mlx_rcnn.json"
_FIELDS: dict[str, type] = {"model_type": str, "backbone": dict, "detector": dict}


def settings_file(path: Path) -> Path:
    """The settings of a checkpoint file: ``mine.pth.json`` of ``mine.pth``."""
    return path.with_name(f"{path.name}.json")


def settings_text(
    model_type: str,
    backbone: Mapping[str, object],
    detector: Mapping[str, object],
    state: Mapping[str, mx.array],
) -> str:
    """The JSON of a settings file beside ``state``, the tensors by the other library's keys."""
    # "backbone" holds the fields of its config, and its ``type``
    parts = {"model_type": model_type, "backbone": dict(backbone), "detector": dict(detector)}
    own = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return json.dumps({KIND: 1, ID: own, TENSORS: _digest(state), **parts}, indent=2) + "\n"


class Stored(NamedTuple):
    """Settings of a checkpoint as they were read, and the ``file`` they stand in."""

    file: Path
    model_type: object
    backbone: dict[str, object]
    detector: dict[str, object]

    def fields(self) -> dict[str, object]:
        """The config fields, of detector and backbone, by name."""
        return {**self.backbone, **self.detector}


def stored_settings(
    path: Path, state: Mapping[str, mx.array], note: str | None = None
) -> Stored | None:
    """The settings beside a checkpoint or in it; ``None``, with a warning, if of other tensors."""
    file = settings_file(path)
    inside, content = _content(note), _content(_text(file))
    if content is None and file.is_file():
        warnings.warn(f"{file} holds no settings of mlx_rcnn: passed over", stacklevel=2)
    # those beside it count if they were written with those in it
    if inside is not None and (content is None or content.get(ID) != inside.get(ID)):
        if content is not None:
            warnings.warn(
                f"{file} was not written with {path.name}: passed over, the settings in the "
                "checkpoint are used",
                stacklevel=2,
            )
        content, file = inside, path
    if content is None:
        return None
    if content.get(TENSORS) != _digest(state):
        warnings.warn(f"{file} is of other tensors than {path.name}: passed over", stacklevel=2)
        return None
    for name, kind in _FIELDS.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(
                f"{file}: {name} is no {kind.__name__}: remove the file to read {path.name} "
                "without settings"
            )
    return Stored(file, *(content[name] for name in _FIELDS))


def with_settings(found: Recognised, path: Path, stored: Stored | None) -> Recognised:
    """What was recognised, with the settings of its file; ValueError if of another model."""
    if stored is None:
        return found
    if stored.model_type != found.model:
        raise ValueError(
            f"{stored.file}: model_type {stored.model_type!r}, and the tensors of {path.name} are "
            f"a {found.model}'s: remove the file to read {path.name} without settings"
        )
    where = "in the file" if stored.file == path else f"of {stored.file.name}"
    return found._replace(
        backbone=stored.backbone,
        detector=stored.detector,
        note=f"{found.note}; settings {where}",
    )


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _content(text: str | None) -> dict[str, Any] | None:
    """The settings of this package in a text, if it holds any."""
    try:
        content = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get(KIND) == 1 else None


def _digest(state: Mapping[str, mx.array]) -> str:
    """Of keys and shapes, batch counters apart, which come and go with the kind of norm."""
    rows = sorted(
        f"{key} {tuple(value.shape)}"
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
