"""Images of which only windows are read: TIFF files, and arrays that lie on a disk."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeGuard

import numpy as np
from PIL import Image

from ..structures import ImageLike
from .images import load_image
from .pixels import AnyArray, ImageError, check_image_array
from .tiff import TiffImage, is_tiff

OVERVIEW = 4096
"""Pixels of the longer side of a large image's reduced picture, at most."""

_PAGE = re.compile(r"(.+)#page=([1-9]\d*)", re.DOTALL)
_BLOCK = 1024  # pixels of a side that are read at once for it


class Windows:
    """An array-like (H, W, 3), as of zarr, h5py or ``numpy.memmap``, as checked RGB windows."""

    scale = np.ones(2)

    def __init__(self, array: AnyArray) -> None:
        self._array = array
        shape = tuple(int(n) for n in array.shape)
        if len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ImageError(f"image to read by windows has shape {shape}: expected (H, W, 3)")
        self.shape = (shape[0], shape[1], 3)
        self.size, self.dtype = self.shape[:2], np.dtype(str(array.dtype))

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """(h, w, 3) uint8 or float32, of slices of rows and columns."""
        return check_image_array(np.asarray(self._array[window]), "window of the image")


def most_pixels() -> float:
    """Pixels of the largest image file that is read as a whole, Pillow's limit."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else float("inf")


def in_windows(image: object) -> TypeGuard[AnyArray]:
    """Whether an image is one to read windows of, not a whole array, a path or a picture."""
    if isinstance(image, TiffImage | Windows | np.memmap):
        return True
    library = type(image).__module__.split(".")[0]
    whole = isinstance(image, np.ndarray) or library in ("mlx", "torch")
    return not whole and len(getattr(image, "shape", ())) == 3 and hasattr(image, "__getitem__")


def page_name(path: Path, page: int) -> Path:
    """What a page of a TIFF is called where it is an image among others: ``stack.tif#page=2``."""
    return path.with_name(f"{path.name}#page={page}")


def file_and_page(path: str | os.PathLike[str]) -> tuple[Path, int | None]:
    """The file and the page that :func:`page_name` has named; ``None`` of any other path."""
    match = _PAGE.fullmatch(os.fspath(path))
    if match is None or Path(path).exists():
        return Path(path), None
    return Path(match[1]), int(match[2])


def open_windows(
    image: ImageLike | AnyArray, levels: str | None = None
) -> TiffImage | Windows | np.ndarray:
    """An image as something to read windows of: ``shape`` and ``image[rows, columns]``."""
    if isinstance(image, str | os.PathLike):
        path, page = file_and_page(image)
        if page is None and not is_tiff(path):
            return load_image(path, levels)
        try:
            return TiffImage(path, page or 1, levels)
        except (ImportError, ImageError) as error:
            if page is not None:
                raise
            # A TIFF without tifffile, or of a kind that only Pillow reads, is read as a whole if it
            # has but one page.
            return _whole(path, levels, error)
    if in_windows(image):
        return image if isinstance(image, TiffImage | Windows) else Windows(image)
    return load_image(image, levels)


def _whole(path: Path, levels: str | None, error: Exception) -> np.ndarray:
    """What Pillow makes of a TIFF that cannot be read by windows."""
    try:
        with Image.open(path) as picture:
            several = getattr(picture, "n_frames", 1) > 1
        if not several:  # else Pillow would give the first, without a word
            return load_image(path, levels)
    except Exception:  # of Pillow's decoders; the first error tells more
        raise error from None
    raise error


def overview(image: AnyArray, most: int = OVERVIEW) -> tuple[np.ndarray, np.ndarray]:
    """A reduced picture (h, w, 3) of an image read by windows, and its (2,) pixels in one."""
    chosen: AnyArray = image
    if isinstance(image, TiffImage):
        sides = [max(size) for size in image.sizes]
        fitting = [i for i, side in enumerate(sides) if most / 2 <= side <= most]
        larger = [i for i, side in enumerate(sides) if side > most]
        # Of a pyramid the largest level that fits, if its longer side is at least half of ``most``;
        # else every k by k pixels of the next larger one are averaged.
        best = fitting[0] if fitting else larger[-1] if larger else 0
        chosen = image.at_level(best)
    height, width = chosen.shape[:2]
    step = -(-max(height, width) // most)
    # pixels of the image at full resolution in one of the picture, down and across
    scale = getattr(chosen, "scale", np.ones(2)) * step
    if step == 1:
        return np.asarray(chosen[0:height, 0:width]), scale
    small = np.zeros((-(-height // step), -(-width // step), 3), chosen.dtype)
    side = max(_BLOCK // step, 1)
    for y in range(0, len(small), side):
        for x in range(0, small.shape[1], side):
            rows = slice(y * step, min((y + side) * step, height))
            columns = slice(x * step, min((x + side) * step, width))
            reduced = _averaged(np.asarray(chosen[rows, columns]), step)
            small[y : y + side, x : x + side] = reduced
    return small, scale


def _averaged(pixels: np.ndarray, step: int) -> np.ndarray:
    """Means of ``step`` by ``step`` pixels, of what there is at the far borders."""
    starts = [np.arange(0, n, step) for n in pixels.shape[:2]]
    kind = np.uint32 if pixels.dtype == np.uint8 else np.float64
    sums = np.add.reduceat(pixels, starts[0], axis=0, dtype=kind)
    sums = np.add.reduceat(sums, starts[1], axis=1)
    counts = [np.diff([*start, n]) for start, n in zip(starts, pixels.shape[:2], strict=True)]
    means = sums / (counts[0][:, None] * counts[1])[..., None]
    exact: np.ndarray = np.rint(means) if pixels.dtype == np.uint8 else means
    return exact.astype(pixels.dtype)
