"""``mlx_rcnn data draw``: a contact sheet of what training sees."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...files import replacing
from ...inputs.images import ImageError
from ...messages import one_line
from ...outputs.draw import draw_detections, readable_scale
from ...training.config import TrainConfig
from ...training.loading import augmentation
from ..errors import CommandError
from ..flags.train import given_settings
from ..preflight import check_writable, make_folders
from ..said import say_problem
from .command import open_splits

if TYPE_CHECKING:
    from ...data import Compose, DetectionDataset

TILE = 320  # pixels of a picture's longer side on the sheet


def run(args: argparse.Namespace) -> int:
    """Draw a contact sheet; 1 if no image could be drawn."""
    path = Path(args.out)
    check_writable(path.parent)
    parts = open_splits(args, False, masks=None, keypoints=None)
    samples = [(part, i) for part in parts.values() for i in range(len(part))]
    count = min(args.count, len(samples))
    columns = math.ceil(math.sqrt(count))
    sheet = Image.new("RGB", (columns * TILE, math.ceil(count / columns) * TILE), "white")
    drawn = 0
    try:
        config = TrainConfig(**given_settings(args))
        augment = {id(part): augmentation(config, part) for part in parts.values()}
        for place in range(count):
            part, i = samples[place * len(samples) // count]
            picture = _picture(part, i, augment[id(part)], args.seed)
            if picture is not None:
                at = place % columns * TILE + 2, place // columns * TILE + 2
                sheet.paste(picture, at)
                drawn += 1
    except (ValueError, TypeError) as error:
        raise CommandError(one_line(error)) from error
    if not drawn:
        return 1
    make_folders([path.parent])
    with replacing(path) as file:
        sheet.save(file, format="PNG")
    defects = sum(len(part.defects) for part in parts.values())
    left = f"; {defects} defects in the data are left out (mlx_rcnn data check)" if defects else ""
    print(f"{path}: {drawn} of {len(samples)} images{left}")
    return 0


def _picture(
    dataset: DetectionDataset, index: int, augment: Compose | None, seed: int
) -> Image.Image | None:
    """One image with its objects; ``None``, and said, if it cannot be read."""
    try:
        sample = dataset[index]
    except (OSError, ImageError) as error:
        say_problem(one_line(error))
        return None
    image, target = sample.image, sample.target
    if augment is not None:
        image, target = augment(image, target, np.random.default_rng([seed, index]))
    height, width = image.shape[:2]
    picture = draw_detections(
        image,
        target,
        dataset.class_names,
        scale=readable_scale(width, height),
        skeleton=dataset.keypoint_skeleton,
    )
    picture.thumbnail((TILE - 4, TILE - 4))
    return picture
