"""Read images: whatever a user has in hand becomes one (H, W, 3) RGB array.

Every image, from the command line or from ``predict``, comes through :func:`load_image`, so all
checks on files and arrays are here.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""What counts as an image in a folder or a glob; a file named outright may have any suffix."""

# Standard normal input, which networks are often tried with, stays far below; 8-bit ranges above.
_SUSPICIOUS_FLOAT = 16.0


class ImageError(ValueError):
    """An image file or array that cannot be used; the message names it and what was expected."""


def load_image(image: Any) -> np.ndarray:
    """Turn a path, a PIL image or an array into one RGB array, channels last.

    Files are decoded by Pillow: the first frame, turned upright by its EXIF orientation, converted
    to RGB as ``Image.convert("RGB")`` does (an alpha channel is dropped). 16-bit grey keeps its
    high byte, where Pillow would clip it to white. A PIL image is converted alike but not turned,
    so that boxes are in pixels of the image given.

    Args:
        image: a path (str or PathLike), a PIL image, or a NumPy or MLX array (H, W, 3), uint8 in
            0..255 or floating point in [0, 1].

    Returns:
        (H, W, 3) uint8; float32 if ``image`` is an array of floats (or a file that holds floats).
        Floats outside [0, 1] are passed on unchanged, with a warning if they look like 0..255.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the path cannot be opened.
        ImageError: the file is not a whole image, or the array has a wrong shape, dtype or value.
        TypeError: ``image`` is none of the above.
    """
    if isinstance(image, str | os.PathLike):
        return _load_file(Path(image))
    if isinstance(image, Image.Image):
        try:
            return _to_rgb(image, "PIL image")
        except OSError as error:  # opened lazily by the user, broken further down
            raise ImageError(f"cannot decode the PIL image given: {_reason(error)}") from error
    if not hasattr(image, "shape") or not hasattr(image, "dtype"):
        raise TypeError(
            f"expected a path, a PIL image or an (H, W, 3) array, got {type(image).__name__}"
        )
    return check_image_array(image)


def find_images(sources: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List the image files that paths, folders and glob patterns stand for.

    A folder gives the images right inside it and a pattern (``**`` goes through subfolders) the
    images it matches, both sorted by name and told by their suffix; hidden files are passed over. A
    file is taken whatever its name. A file that comes up twice is listed once.

    Args:
        sources: paths of files or folders, or glob patterns.

    Returns:
        Paths in the order of ``sources``, spelled as the sources are.

    Raises:
        FileNotFoundError: a file that does not exist.
        ValueError: a folder or a pattern without images, or no sources at all.
    """
    found: dict[str, Path] = {}
    names = [os.fspath(source) for source in sources]
    if not names:
        raise ValueError("no images given: expected files, folders or glob patterns")
    for name in names:
        for path in _expand(name):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def check_image_array(array: Any, name: str = "image array") -> np.ndarray:
    """Check one (H, W, 3) NumPy or MLX array and give it back as NumPy, uint8 or float32.

    Args:
        array: (H, W, 3), uint8 in 0..255 or floating point in [0, 1].
        name (str): what messages call it. Default: ``"image array"``.

    Returns:
        (H, W, 3) uint8 or float32.

    Raises:
        ImageError: a wrong shape or dtype, no pixels, or pixels that are NaN or infinite.
    """
    shape = tuple(array.shape)
    if len(shape) != 3 or shape[2] != 3:
        raise ImageError(f"{name} has shape {shape}: expected (H, W, 3){_shape_hint(shape)}")
    if 0 in shape:
        raise ImageError(f"{name} has shape {shape}: expected at least one pixel")
    if str(array.dtype).endswith("bfloat16"):  # NumPy has no bfloat16
        import mlx.core as mx

        array = array.astype(mx.float32)
    pixels = np.asarray(array)
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ImageError(
            f"{name} has dtype {pixels.dtype}: expected uint8 (0..255) or floats in [0, 1]"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise ImageError(f"{name} holds NaN or infinite pixels: expected finite floats in [0, 1]")
    if high > _SUSPICIOUS_FLOAT:
        warnings.warn(
            f"{name} has floats from {low:g} to {high:g}: expected floats in [0, 1]; "
            "divide by 255 or pass uint8",
            stacklevel=3,
        )
    return pixels.astype(np.float32, copy=False)


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        return ", channels last; this looks like channels first"
    if len(shape) == 3 and shape[2] == 4:
        return "; drop the alpha channel"
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return "; repeat the grey channel three times"
    if len(shape) == 4:
        return ", one image"
    return ""


def _load_file(path: Path) -> np.ndarray:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected an image file")
    if not path.exists():
        raise FileNotFoundError(f"no such image: {path}")
    if path.stat().st_size == 0:
        raise ImageError(f"cannot read {path}: the file is empty")
    try:
        with Image.open(path) as image:
            return _to_rgb(ImageOps.exif_transpose(image), str(path))
    except (PermissionError, ImageError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"cannot read {path}: {_unknown_format(path)}") from error
    # On broken files Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        raise ImageError(f"cannot read {path}: {_reason(error)}") from error


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    if 0 in image.size:
        raise ImageError(f"{name} has size {image.size}: expected at least one pixel")
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):  # convert("RGB") would clip at 255
        high = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=2)
    if mode == "F":
        grey = np.asarray(image)
        if grey.max() > _SUSPICIOUS_FLOAT:
            raise ImageError(f"{name} has floats up to {grey.max():g}: expected floats in [0, 1]")
        return check_image_array(np.repeat(grey[..., None], 3, axis=2), name)
    if mode == "P" and "transparency" in image.info:
        image = image.copy()  # the same pixels, without Pillow's advice to convert to RGBA
        del image.info["transparency"]
    try:
        return np.asarray(image.convert("RGB"))
    except ValueError as error:
        raise ImageError(f"{name} has mode {mode}, which does not convert to RGB") from error


def _unknown_format(path: Path) -> str:
    if path.suffix.lower() in (".heic", ".heif"):
        return "HEIC is not supported; convert it to JPEG (on macOS: sips -s format jpeg FILE)"
    return "not an image, or a format Pillow does not know"


def _reason(error: BaseException) -> str:
    """The message of an error on one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


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
