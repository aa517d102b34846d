"""The pages of TIFF files as images of their own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from ..data.writers.write import WRITERS
from ..inputs.images import ImageError, load_image
from ..inputs.tiff import TiffImage, count_pages, is_tiff
from ..inputs.windows import Windows, file_and_page, most_pixels, open_windows, page_name
from ..messages import one_line
from .errors import CommandError
from .said import say_problem

Source: TypeAlias = TiffImage | Windows | np.ndarray
"""An image as a whole, or to be read by windows."""


def page_paths(args: argparse.Namespace, paths: Sequence[Path], kinds: Sequence[str]) -> list[Path]:
    """Images to predict: of a TIFF of several pages ``stack.tif#page=1``, ``#page=2``, ..."""
    page = args.page
    if page is not None and (args.tta_sizes is not None or args.tta_flip):
        raise CommandError("--page and --tta-sizes or --tta-flip: expected one of them")
    found: list[Path] = []
    # what cannot be read is left as it is: reading it says why
    for path in paths:
        if args.level:
            _check_level(path, args.level)
        if not is_tiff(path):
            found.append(path)
        elif page is None and args.tile is None:
            _say_several(path)
            found.append(path)
        else:
            found += _chosen(path, page or 0)
    named = next((path for path in found if file_and_page(path)[1] is not None), None)
    formats = [kind for kind in kinds if kind in WRITERS]
    if named is not None and formats:
        raise CommandError(
            f"--save {formats[0]}: annotations are of files, and cannot tell pages of "
            f"{file_and_page(named)[0]} apart: expected csv or crops, or a file a page"
        )
    return found


def _chosen(path: Path, page: int) -> list[Path]:
    """The page asked for, or all; a file of one page keeps its name."""
    try:
        count = count_pages(path)
    except ImportError as error:
        if page > 1:
            raise CommandError(one_line(error)) from error
        try:
            open_windows(path)  # as a whole, by Pillow: it has one page then
        except (ImportError, ImageError, OSError) as second:
            raise CommandError(one_line(second)) from error
        count = 1
    except (ImageError, OSError):
        return [path]
    if page > count:
        raise CommandError(f"--page {page}: {path} has {count} page{'s' * (count > 1)}")
    if count == 1:
        return [path]
    return [page_name(path, number) for number in ([page] if page else range(1, count + 1))]


def _check_level(path: Path, level: int) -> None:
    """Refuse a level that a file has not; one that is damaged says so when it is read."""
    if not is_tiff(path):
        raise CommandError(f"--level {level}: {path} is no TIFF, which alone has levels")
    try:
        TiffImage(path).at_level(level)
    except (ImageError, ImportError) as error:
        raise CommandError(f"--level {level}: {one_line(error)}") from error
    except OSError:
        return


def _say_several(path: Path) -> None:
    """A word about pages that are not predicted, which nobody may have known of."""
    try:
        with Image.open(path) as picture:
            count = getattr(picture, "n_frames", 1)
    except Exception:  # of Pillow's decoders: reading it says why
        return
    if count > 1:
        say_problem(
            f"{path} has {count} pages or levels: the first is predicted; --page all takes each"
        )


def load_source(path: Path, tiled: bool, levels: str | None) -> Source:
    """An image as it is predicted: an array, or with ``tiled`` something to read windows of."""
    file, page = file_and_page(path)
    if tiled:
        windows: Source = open_windows(path, levels)
        return windows
    if page is None:
        return load_image(path, levels)
    image = TiffImage(file, page, levels)
    height, width = image.shape[:2]
    if height * width > most_pixels():
        raise ImageError(
            f"cannot read {path}: {width}x{height} pixels are too many to read as a whole: "
            "expected --tile"
        )
    return image[0:height, 0:width]
