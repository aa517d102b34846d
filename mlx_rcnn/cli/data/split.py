"""``mlx_rcnn data split``: train, val and test, with the same share of each class."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ...data.dataset import DetectionDataset
from ...data.split_lists import write_splits
from ...data.stratify import stratified
from ...messages import one_line
from ...tables import display_width, pad
from ..errors import CommandError
from .command import format_of, open_path


def run(args: argparse.Namespace) -> int:
    """Divide a data set and write the splits down; CommandError for splits that are there."""
    given = (("val", args.val_fraction), ("test", args.test_fraction))
    fractions = {name: share for name, share in given if share}
    format = format_of(args)
    dataset = open_path(args, args.split, masks="kept", keypoints=None)
    names = ("train", *fractions)
    if format != "coco":
        _check_others(args, dataset, names)
    try:
        parts = stratified(dataset, fractions, args.seed)
        files = write_splits(
            Path(args.path),
            dataset,
            parts,
            format=format,
            split=args.split,
            overwrite=args.overwrite,
        )
    except (FileExistsError, ValueError) as error:
        raise CommandError(one_line(error)) from error
    print("\n".join(_table(dataset, parts)))
    if dataset.defects:
        print(f"{len(dataset.defects)} defects: images that were dropped are in no split")
    for file in files:
        print(f"written: {file}")
    return 0


def _check_others(
    args: argparse.Namespace, dataset: DetectionDataset, names: tuple[str, ...]
) -> None:
    """Refuse new splits beside old ones that share their images."""
    there = [name for name in dataset.splits if name not in ("trainval", args.split)]
    if not there:
        return
    if not args.overwrite and len(dataset.splits) > 1 and set(there) & set(names):
        raise CommandError(
            f"{args.path} has splits {', '.join(dataset.splits)}: --overwrite replaces them"
        )
    mine = {item.path.resolve() for item in dataset.items}
    for name in there:
        theirs = {item.path.resolve() for item in open_path(args, name).items}
        if name not in names and mine & theirs:
            raise CommandError(
                f"{args.path}: its split {name} stays, and shares {len(mine & theirs)} images with "
                "the new ones: give --split to divide another, or a fraction for it too"
            )
        if name in names and theirs - mine:
            raise CommandError(
                f"{args.path}: its split {name} would be replaced, and {len(theirs - mine)} of its "
                "images be in no split: divide all of it (no --split), or rename its list"
            )


def _table(dataset: DetectionDataset, parts: dict[str, list[int]]) -> list[str]:
    """Objects of each class in each part, and its share of all."""
    rows = {name: _counts(dataset, indices) for name, indices in parts.items()}
    total = np.sum(list(rows.values()), axis=0)
    labels = ["images", *dataset.class_names[1:]]
    width = max(map(display_width, labels))
    lines = [" ".join([pad("", width), *(f"{name:>14}" for name in parts)])]
    for number, label in enumerate(labels):
        cells = [
            f"{row[number]:>7} {row[number] / max(total[number], 1):>6.1%}" for row in rows.values()
        ]
        lines.append(" ".join([pad(label, width), *cells]))
    return lines


def _counts(dataset: DetectionDataset, indices: list[int]) -> np.ndarray:
    counts = np.zeros(len(dataset.class_names), np.int64)
    for i in indices:
        counts += np.bincount(dataset.target(i)["labels"], minlength=len(counts))
    counts[0] = len(indices)
    return counts
