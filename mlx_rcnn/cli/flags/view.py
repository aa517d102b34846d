"""How an image is looked at: in several views, or in tiles; light, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import CommandError
from .common import Flags, count, fraction

if TYPE_CHECKING:
    from ...models import Detector, TestTimeAugment, Tiles


def add_augment(group: Flags) -> None:
    """Add ``--tta-sizes`` and ``--tta-flip``."""
    group.add_argument(
        "--tta-sizes",
        type=_sizes,
        metavar="A,B",
        help="test-time augmentation: short sides, in pixels, at each of which every image is "
        "predicted; what is found is merged (default: the model's own size alone)",
    )
    group.add_argument(
        "--tta-flip",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="predict mirror images too (default: with --tta-sizes)",
    )


def add_tiles(group: Flags) -> None:
    """Add ``--tile``, ``--overlap``, ``--page`` and ``--level``."""
    group.add_argument(
        "--tile",
        type=count,
        metavar="N",
        help="cut images into tiles of N pixels, for many small objects, and take in the whole "
        "image too (default: the whole image alone)",
    )
    group.add_argument(
        "--overlap",
        type=fraction,
        metavar="X",
        help="share of a tile that the next one repeats, so that objects up to that size are whole "
        "in one of them (default: 0.2)",
    )
    group.add_argument(
        "--page",
        type=_page,
        metavar="N",
        help="page of TIFF files, from 1, or all (default: all with --tile, else the first)",
    )
    group.add_argument(
        "--level",
        type=_level,
        metavar="N",
        help="level of a TIFF's pyramid that --tile cuts; results are in pixels of the full "
        "resolution (default: 0, which that is)",
    )


def tiles_of(args: argparse.Namespace) -> Tiles | None:
    """What :func:`add_tiles` read, ``None`` for whole images; CommandError for impossible tiles."""
    if args.tile is None:
        for flag in ("overlap", "level"):
            if getattr(args, flag) is not None:
                raise CommandError(f"--{flag} goes with --tile")
        return None
    from ...models.tiled import Tiles  # heavy: --help answers without it

    try:
        overlap = 0.2 if args.overlap is None else args.overlap
        return Tiles(args.tile, overlap, batch_size=args.batch_size, level=args.level or 0)
    except ValueError as error:
        raise CommandError(f"--tile {args.tile} --overlap {overlap}: {error}") from error


def augmentation(args: argparse.Namespace) -> TestTimeAugment | None:
    """What :func:`add_augment` read, ``None`` if neither flag; CommandError for a single view."""
    if args.tta_sizes is None and not args.tta_flip:
        if args.tta_flip is False:
            raise CommandError("--no-tta-flip goes with --tta-sizes")
        return None
    from ...models import TestTimeAugment  # heavy

    return TestTimeAugment(args.tta_sizes, args.tta_flip is not False)


def check_augmentation(model: Detector, augment: TestTimeAugment | None) -> None:
    """Refuse a model that cannot predict so."""
    from ...models.augmented import check_augment

    try:
        if augment is not None:
            check_augment(model, augment)
    except ValueError as error:
        raise CommandError(str(error).replace("flip=False", "--no-tta-flip")) from error


def _page(text: str) -> int:
    """A whole number of at least 1; 0 for ``all``."""
    if text == "all":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected 1, 2, ... or all")
    return int(text)


def _level(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} given, expected 0, 1, 2, ...")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    """Whole numbers of 1 to 4000 between commas."""
    rule = "whole numbers from 1 to 4000 between commas, such as 400,600,800"
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 4000 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} given, expected {rule}")
    return tuple(map(int, parts))
