"""What a checkpoint's tensors cannot say, in a small JSON file beside it.

Keys and shapes tell a network's layers, not its groups of a norm, input sizes, thresholds or names.
What this package writes for another library therefore has ``NAME.json`` beside ``NAME``, which the
other library never looks at, and which is read again if it is there and belongs to the tensors.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from .libraries.architecture import Recognised

KIND, TENSORS = "mlx_rcnn settings", "tensors"
_FIELDS: dict[str, type] = {"model_type": str, "backbone": dict, "detector": dict}


def settings_file(path: Path) -> Path:
    """The settings of a checkpoint file: ``mine.pth.json`` of ``mine.pth``."""
    return path.with_name(f"{path.name}.json")


def settings_text(
    model_type: str,
    backbone: Mapping[str, Any],
    detector: Mapping[str, Any],
    state: Mapping[str, mx.array],
) -> str:
    """The text of a settings file.

    Args:
        model_type: ``"faster_rcnn"``, ``"mask_rcnn"`` or ``"keypoint_rcnn"``.
        backbone: the fields of its config, and its ``type``.
        detector: the fields of the model's config.
        state: the tensors written, by the other library's keys.

    Returns:
        JSON.
    """
    parts = {"model_type": model_type, "backbone": dict(backbone), "detector": dict(detector)}
    return json.dumps({KIND: 1, TENSORS: _digest(state), **parts}, indent=2) + "\n"


def with_settings(found: Recognised, path: Path, state: Mapping[str, mx.array]) -> Recognised:
    """What was recognised, with the settings that lie beside the file.

    Args:
        found: by keys and shapes.
        path: of the checkpoint.
        state: its tensors by the other library's keys.

    Returns:
        ``found`` itself where there are none; where they are of other tensors a warning says so.

    Raises:
        ValueError: a settings file of this package that is damaged.
    """
    file = settings_file(path)
    if not file.is_file():
        return found
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or content.get(KIND) != 1:
        return found  # somebody else's file
    if content.get(TENSORS) != _digest(state):
        warnings.warn(f"{file} is of other tensors than {path.name}: passed over", stacklevel=2)
        return found
    for name, kind in _FIELDS.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(
                f"{file}: {name} is no {kind.__name__}: remove the file to read {path.name} "
                "without settings"
            )
    return found._replace(
        model=content["model_type"],
        backbone=content["backbone"],
        detector=content["detector"],
        note=f"{found.note}; settings of {file.name}",
    )


def _digest(state: Mapping[str, mx.array]) -> str:
    """Of keys and shapes, batch counters apart, which come and go with the kind of norm."""
    rows = sorted(
        f"{key} {tuple(value.shape)}"
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
