"""A detector as a function file of MLX, ``.mlxfn``: for an app in C++ or Swift, without Python.

The file holds weights once and a trace for each size and type of pixels; what an app must know
besides, names of classes above all, is JSON in its metadata and in a file beside it, for Swift
reads no metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..data.shapes import ShapesDataset
from ..files import replacing
from ..heads import DetectionRule
from ..heads.detections import check_thresholds, detection_rule
from ..inputs.transform import preprocess
from ..kernels import plain_operations
from ..messages import listing, one_line
from ..models import Detector
from ..models.traced import FIRST, Function, traceable
from .exported_function import FORMAT, MLX_VERSION, SUFFIX, ExportedFunction, Size, beside, by

LEAST, MOST = 32, 4096  # pixels of a side
_NEAR, _SHARE = 0.5, 0.9  # pixels; of the detections of a test picture that have to agree


class Agreement(NamedTuple):
    """How far a function of one size gives what ``predict`` gives, on a test picture."""

    size: Size  # (height, width)
    found: int  # detections of ``predict``
    same: int  # of these, detections of the same class and place
    boxes: float  # largest difference of their coordinates, pixels
    scores: float  # largest difference of their scores


def export_function(
    model: Detector,
    path: str | os.PathLike[str],
    sizes: Sequence[Size],
    *,
    score_thresh: float | Sequence[float] | None = None,
    nms_thresh: float | None = None,
    top_k: int | None = None,
) -> list[Agreement]:
    """Write a detector as a function file of MLX, for apps in C++ and Swift.

    The function runs on the device that is MLX's default now, whatever machine reads it: export on
    a Mac's GPU for a Mac's GPU. It is read back and compared with ``predict`` before anything is
    replaced. ``docs/app.md`` tells what an app does
    with it.

    Args:
        model: with proposals of its own; a proposal network gives its proposals.
        path: ends in ``.mlxfn``; it and the file beside it, with ``.json`` after its name, are
            written or replaced whole.
        sizes: (height, width) of the images it will take, as many as are wanted.
        score_thresh, nms_thresh, top_k: as ``predict``; they stay as they are now.

    Returns:
        One of each size: how far the function agrees with ``predict``.

    Raises:
        ValueError: a model, sizes, a threshold or a path that cannot be exported.
        TypeError: a threshold that is no number.
        OSError: it cannot be written; what was there is as it was.
    """
    path = Path(path)
    wanted = check_target(path, sizes)
    rule = _rule(model, score_thresh, nms_thresh, top_k)
    metadata = _metadata(model, wanted, rule)
    mx.eval(model.parameters())
    functions = {size: traceable(model, size, rule) for size in wanted}
    with replacing(path) as part:
        part.touch()  # where it may not be written Python says so better than MLX
        _write(model, part, functions, json.dumps(metadata))
        function = ExportedFunction(mx.import_function(str(part)), metadata)
        agreements = [_agreement(model, function, size, rule) for size in wanted]
        with replacing(beside(path)) as text:
            text.write_text(json.dumps(metadata, indent=2) + "\n")
    return agreements


def check_target(path: Path, sizes: Sequence[Size]) -> list[Size]:
    """Each (height, width) once; an error for what can be wrong before there is a model."""
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: expected a name that ends in {SUFFIX}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected a file to write")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}")
    wanted = list(dict.fromkeys((int(height), int(width)) for height, width in sizes))
    if not wanted:
        raise ValueError("sizes is empty: expected at least one (height, width)")
    for size in wanted:
        if not all(LEAST <= side <= MOST for side in size):
            raise ValueError(f"size {by(size)}: expected sides of {LEAST} to {MOST} pixels")
    return wanted


def _rule(
    model: Any,
    score_thresh: float | Sequence[float] | None,
    nms_thresh: float | None,
    top_k: int | None,
) -> DetectionRule | None:
    """Which boxes become detections; ``None`` for a network whose proposals are given as is."""
    if getattr(model, "finds_objects", False):
        if (score_thresh, nms_thresh, top_k) != (None, None, None):
            raise ValueError(
                f"a {type(model).__name__} is exported with the thresholds of its config: expected "
                "rpn_score_thresh, rpn_nms_thresh and rpn_post_nms_top_n_test of the model"
            )
        return None
    rule = detection_rule(model.config, score_thresh, nms_thresh, top_k)
    check_thresholds(rule, model.num_classes)
    for branch in model.branches:
        if not branch.finds:
            raise ValueError(
                f"a {type(branch).__name__} cannot be exported: expected a branch with `finds` and "
                "`traced`, as MaskBranch has them"
            )
    return rule


def _metadata(model: Any, sizes: Sequence[Size], rule: DetectionRule | None) -> dict[str, Any]:
    """What an app must know."""
    found = [name for branch in getattr(model, "branches", ()) for name in branch.finds]
    metadata = {
        "format": FORMAT,
        "mlx_version": MLX_VERSION,
        "device": "gpu" if mx.default_device().type == mx.DeviceType.gpu else "cpu",
        "model": type(model).__name__,
        "source": model.source,
        "sizes": [list(size) for size in sizes],
        "inputs": ["image", "content"],
        "outputs": [*FIRST, *found],
        "class_names": model.class_names,
    }
    if rule is not None:
        metadata |= {"score_thresh": rule.score_thresh, "nms_thresh": rule.nms_thresh}
    if model.needs_masks:
        metadata["mask_paste_rule"] = model.config.mask_paste_rule
    if model.needs_keypoints:
        metadata["keypoint_names"] = model.keypoint_names
        metadata["keypoint_skeleton"] = model.keypoint_skeleton
    return metadata


def _write(model: Detector, path: Path, functions: dict[Size, Function], metadata: str) -> None:
    """Trace all sizes, each for both types of pixels, into one file."""

    def of_size(image: mx.array, content: mx.array) -> list[mx.array]:
        return list(functions[image.shape[0], image.shape[1]](image, content).values())

    try:
        with plain_operations(), mx.exporter(str(path), of_size, metadata=metadata) as trace:
            for size in functions:
                for dtype in (mx.uint8, mx.float32):
                    trace(mx.zeros((*size, 3), dtype=dtype), mx.array(size, dtype=mx.int32))
    except (RuntimeError, ValueError, TypeError) as error:
        own = sorted({type(m).__name__ for _, m in model.named_modules() if not _known(m)})
        if not own:
            raise
        raise ValueError(
            f"cannot export {listing(own)}, which is not of this package: expected a module that "
            f"neither asks the host nor has a gradient of its own ({one_line(error)})"
        ) from error


def _known(module: object) -> bool:
    return type(module).__module__.split(".")[0] in ("mlx_rcnn", "mlx")


def _agreement(
    model: Any, function: ExportedFunction, size: Size, rule: DetectionRule | None
) -> Agreement:
    """Compare the function with ``predict`` on a picture of shapes; ValueError if they part."""
    picture = ShapesDataset(1, size, masks=False)[0].image
    batch = preprocess([picture], model.config, [size])
    [wanted] = model.find_in(batch, rule, masks="raw")
    found = function(picture)
    count = min(len(wanted["scores"]), len(found["scores"]))
    boxes = np.abs(wanted["boxes"][:count] - found["boxes"][:count]).max(axis=1, initial=0)
    scores = np.abs(wanted["scores"][:count] - found["scores"][:count])
    same = (boxes < _NEAR) & (wanted["labels"][:count] == found["labels"][:count])
    most = max(len(wanted["scores"]), len(found["scores"]))
    if same.sum() < _SHARE * most:
        raise ValueError(
            f"the exported function finds {len(found['scores'])} objects in a test picture of "
            f"{by(size)}, and predict {len(wanted['scores'])}, of which {same.sum()} are the same:"
            " expected the same detections; please report this with the model"
        )
    return Agreement(
        size,
        len(wanted["scores"]),
        int(same.sum()),
        float(boxes[same].max(initial=0)),
        float(scores[same].max(initial=0)),
    )
