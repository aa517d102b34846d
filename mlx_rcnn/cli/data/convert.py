"""``mlx_rcnn data convert``: a data set in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...data.dataset import DetectionDataset
from ...data.writers.write import write_dataset
from ...messages import one_line
from ..errors import CommandError
from ..preflight import check_writable
from ..said import say_problem
from .command import open_path, open_splits

_SHOWN = 10


def run(args: argparse.Namespace) -> int:
    """Write a data set in another format."""
    check_writable(Path(args.out).parent)
    parts = open_splits(args, True, masks="kept", keypoints=None)
    defects = dict.fromkeys(defect for part in parts.values() for defect in part.defects)
    for defect in list(defects)[:_SHOWN]:
        say_problem(defect)
    if len(defects) > _SHOWN:
        say_problem(f"... and {len(defects) - _SHOWN} more defects")
    left = _in_no_split(args, parts)
    try:
        written = write_dataset(
            parts.get(None, parts),
            args.out,
            args.to,
            images=args.image_files,
            shapes=args.shapes,
        )
    except (FileExistsError, ValueError) as error:
        raise CommandError(one_line(error)) from error
    print(written)
    if left:
        print(f"  {left} images in no split left out")
    return 0


def _in_no_split(args: argparse.Namespace, parts: dict[str | None, DetectionDataset]) -> int:
    """Images of the data that none of its splits has."""
    datasets = list(parts.values())
    if args.split is not None or None in parts or datasets[0].format == "coco":
        return 0
    taken = {item.path for dataset in datasets for item in dataset.items}
    return sum(item.path not in taken for item in open_path(args, None).items)
