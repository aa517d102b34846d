"""``mlx_rcnn data check``: every defect of a data set."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ...data.sample import Defect
from ...inputs.images import ImageError
from ...progress import bar
from .command import open_splits

if TYPE_CHECKING:
    from ...data import DetectionDataset
    from ...data.items import Masks


def run(args: argparse.Namespace) -> int:
    """List every defect; 1 if there are any."""
    if args.json is not None:
        args.json.check()
    masks: Masks = True if args.masks else "kept"
    keypoints = None
    parts = open_splits(args, False, masks=masks, keypoints=keypoints)
    [whole, *_] = parts.values()
    if None in parts and whole.splits:  # lists have defects of their own
        parts |= open_splits(args, True, masks=masks, keypoints=keypoints)
    defects = dict.fromkeys(defect for part in parts.values() for defect in part.defects)
    shown = {None: whole} if None in parts else parts
    if args.pixels:
        defects |= dict.fromkeys(defect for part in shown.values() for defect in _decoded(part))
    for defect in defects:
        print(defect)
    images = sum(len(part) for part in shown.values())
    objects = sum(len(item.target["boxes"]) for part in shown.values() for item in part.items)
    told = f"{len(defects)} defect{'s' * (len(defects) != 1)}" if defects else "no defects"
    print(f"{args.path}: {whole.format}, {images} images, {objects} objects, {told}")
    if args.json is not None:
        counts = {"format": whole.format, "images": images, "objects": objects}
        listed = [defect._asdict() for defect in defects]
        args.json.write_content({"data": args.path, **counts, "defects": listed})
    return 1 if defects else 0


def _decoded(dataset: DetectionDataset) -> list[Defect]:
    """Images whose pixels cannot be read."""
    defects = []
    for i in bar(range(len(dataset)), unit="image", desc="check", disable=not sys.stderr.isatty()):
        try:
            dataset[i]
        except (OSError, ImageError, ValueError) as error:
            defects.append(Defect(dataset.items[i].name, str(error), "not readable"))
    return defects
