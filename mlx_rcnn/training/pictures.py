"""Pictures of what a model finds while it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data.protocols import Dataset
from ..files import replacing
from ..inputs.images import ImageError
from ..models import Detector
from .metrics import SHOWN_SCORE

TILE = 320  # pixels of a picture's longer side on the contact sheet
TILES = 9


def contact_sheet(
    model: Detector | None,
    dataset: Dataset,
    class_names: Sequence[str],
    path: Path,
    count: int = TILES,
) -> None:
    """Draw predictions, or without a model targets, on evenly chosen images in one picture."""
    from ..outputs.draw import draw_detections, readable_scale
    from ..outputs.skeletons import SkeletonStyle, skeleton_style

    skeleton = getattr(dataset, "keypoint_skeleton", None)
    style = skeleton_style(model) if model is not None else SkeletonStyle(skeleton=skeleton)
    count = min(count, len(dataset))
    columns = math.ceil(math.sqrt(count))
    sheet = Image.new("RGB", (columns * TILE, math.ceil(count / columns) * TILE), "white")
    for place in range(count):
        try:
            sample = dataset[place * len(dataset) // count]
        except (ImageError, OSError):
            continue  # evaluation names it
        image, needed = sample.image, getattr(model, "needs_proposals", False)
        found = sample.target
        if model is not None:
            [found] = model.predict(image, *([sample.target["proposals"]] if needed else []))
        height, width = image.shape[:2]
        picture = draw_detections(
            image,
            found,
            class_names,
            score_thresh=SHOWN_SCORE,
            scale=readable_scale(width, height),
            **style,
        )
        picture.thumbnail((TILE - 4, TILE - 4))
        sheet.paste(picture, (place % columns * TILE + 2, place // columns * TILE + 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        sheet.save(part, format="PNG")
