"""``mlx_rcnn data``: check, count, draw, split and convert data sets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ...data.dataset import DetectionDataset
from ...data.formats.recognise import guess_format
from ...data.items import Masks
from ...data.open import open_dataset, splits_of
from ...messages import one_line
from ..errors import CommandError
from ..flags.common import given_levels

_WHOLE = ("trainval", "train_val")  # what others are parts of


def run(args: argparse.Namespace) -> int:
    """Run ``args.action`` on ``args.path`` and give its exit code."""
    action = import_module(f".{args.action}", __package__)
    try:
        code: int = action.run(args)
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except OSError as error:
        raise CommandError(one_line(error), 1) from error
    return code


def open_path(
    args: argparse.Namespace,
    split: str | None,
    class_names: Sequence[str] | None = None,
    masks: Masks | None = False,
    keypoints: bool | None = False,
) -> DetectionDataset:
    """The data of a command, by its ``path``, ``format`` and ``images``, or a CommandError."""
    try:
        return open_dataset(
            args.path,
            args.format,
            split,
            class_names,
            masks,
            keypoints=keypoints,
            images=args.images,
            levels=given_levels(args),
        )
    except (OSError, ValueError) as error:
        raise CommandError(one_line(error)) from error


def format_of(args: argparse.Namespace) -> str:
    """The format of the data, told or given; CommandError if it cannot be told."""
    try:
        if not Path(args.path).exists():
            raise FileNotFoundError(f"no such file or folder: {args.path}")
        return args.format or guess_format(Path(args.path))
    except (OSError, ValueError) as error:
        raise CommandError(one_line(error)) from error


def open_splits(
    args: argparse.Namespace, apart: bool, masks: Masks | None, keypoints: bool | None
) -> dict[str | None, DetectionDataset]:
    """What a command is to work on, split by split; under ``None`` data as a whole."""
    if args.split is not None:
        return {args.split: open_path(args, args.split, None, masks, keypoints)}
    format = format_of(args)
    try:
        names = splits_of(Path(args.path), format)
    except (OSError, ValueError) as error:
        raise CommandError(one_line(error)) from error
    names = tuple(dict.fromkeys(_short(name, names) for name in names))
    # ``trainval`` is left out beside its parts
    if len(set(names) - set(_WHOLE)) > 1:
        names = tuple(name for name in names if name not in _WHOLE)
    if not names or not (apart or format == "coco"):
        return {None: open_path(args, None, None, masks, keypoints)}
    found: dict[str | None, DetectionDataset] = {}
    for name in names:
        # The first one's, for all.
        classes = next(iter(found.values())).class_names if found else None
        found[name] = open_path(args, name, classes, masks, keypoints)
    return found


def _short(name: str, names: tuple[str, ...]) -> str:
    """``val`` for ``val2017`` where both are names of one split."""
    bare = name.rstrip("0123456789")
    bare = "val" if bare in ("valid", "validation") else bare
    return bare if bare in names else name
