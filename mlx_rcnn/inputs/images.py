"""Read images: whatever a user has in hand becomes one (H, W, 3) RGB array.

Every image, from the command line or from ``predict``, comes through :func:`load_image`, so all
checks on files and arrays are here.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ..structures import ImageLike
from .image_files import load_image_file
from .pixels import AnyArray, ImageError, check_image_array, reason, to_rgb

__all__ = ["IMAGE_SUFFIXES", "ImageError", "check_image_array", "find_images", "load_image"]

IMAGE_SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jfif",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".mpo",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tga",
    ".tif",
    ".tiff",
    ".webp",
)
"""What counts as an image in a folder or a glob; a file named outright may have any suffix."""


def load_image(image: ImageLike | AnyArray, levels: str | None = None) -> np.ndarray:
    """Turn a path, a PIL image or an array into one RGB array, channels last.

    Files are decoded by Pillow: the first frame, turned upright by its orientation (EXIF's, or a
    TIFF's own; a damaged EXIF block turns nothing), converted to RGB as ``Image.convert("RGB")``
    does (an alpha channel is dropped). Grey of 16 or 32 bits becomes 8 by the largest value: up to
    255 as it is, up to 4095 as 12 bits, both with a warning, and else its high byte. A PIL image is
    converted alike but not turned, so that boxes are in pixels of the image given.

    Args:
        image: a path (str or PathLike), a PIL image, or an array (H, W, 3) of NumPy, MLX or
            PyTorch, uint8 in 0..255 or floating point in [0, 1].
        levels: which values are black and white in grey of more than 8 bits, and in floats, of
            files and PIL images: ``"LOW:HIGH"``, percentiles as ``"1%:99%"``, or ``"auto"``
            (``"0.1%:99.9%"``); between them in proportion, as 8 bits. Arrays are left as they are.
            Default: ``None``, the above.

    Returns:
        (H, W, 3) uint8; float32 in [0, 1] if ``image`` is an array of floats, or a file of floats:
        these are taken as they are in [0, 1], and beyond, with a warning, as 8, 12 or 16 bits.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the path cannot be opened.
        ImageError: the file is not a whole image, or the array has a wrong shape, dtype or value,
            such as floats outside [0, 1] by more than 0.001.
        TypeError: ``image`` is none of the above.
    """
    if isinstance(image, str | os.PathLike):
        return load_image_file(image, levels=levels)
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image, "PIL image", levels=levels)
        except ImageError:
            raise
        # Opened lazily by the user, broken further down: OSError, SyntaxError, struct.error, ...
        except Exception as error:
            raise ImageError(f"cannot decode the PIL image given: {reason(error)}") from error
    if not hasattr(image, "shape") or not hasattr(image, "dtype"):
        raise TypeError(
            f"expected a path, a PIL image or an (H, W, 3) array, got {type(image).__name__}"
        )
    return check_image_array(image)


def find_images(sources: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List the image files that paths, folders and glob patterns stand for, as they are spelled."""
    found: dict[str, Path] = {}
    names = [os.fspath(source) for source in sources]
    if not names:
        raise ValueError("no images given: expected files, folders or glob patterns")
    for name in names:
        # A folder gives the images right inside it and a pattern (``**`` goes through subfolders)
        # the images it matches, both sorted by name and told by their suffix; hidden files are
        # passed over. A file is taken whatever its name.
        for path in _expand(name):
            # a file that comes up twice is listed once
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _expand(source: str) -> list[Path]:
    if not source:
        raise ValueError("an empty path: expected a file, a folder or a glob pattern")
    path = Path(source)
    if path.is_dir():
        images = sorted(p for p in path.iterdir() if _is_image(p))
        if not images:
            raise ValueError(f"no images in folder {source}: expected files such as .jpg or .png")
        return images
    if path.exists():
        return [path]
    if not glob.has_magic(source):
        raise FileNotFoundError(f"no such file or folder: {source}")
    images = sorted(p for p in map(Path, glob.glob(source, recursive=True)) if _is_image(p))
    if not images:
        raise ValueError(f"no image matches {source}")
    return images


def _is_image(path: Path) -> bool:
    hidden = path.name.startswith(".")  # macOS leaves ._photo.jpg files on foreign disks
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file()
