"""Annotated pictures on disk: under which name, and how written."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..files import replacing

_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")

# Sources that lost nothing to compression keep that in their picture; photos become JPEG.
_LOSSLESS_SUFFIXES = (
    ".bmp",
    ".gif",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tga",
    ".tif",
    ".tiff",
)


def picture_paths(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Where the annotated picture of each source goes.

    Args:
        sources: image files.
        folder: the folder for the pictures.

    Returns:
        One path a source: its stem with ``.png`` if it is stored without loss, else with a JPEG
        suffix. Where two would share a name, or one would overwrite a source, ``_2``, ``_3`` ... is
        added. Names that differ in case alone count as the same, as they are on macOS.
    """
    taken = {_identity(source) for source in sources}
    paths = []
    for source in sources:
        suffix = picture_suffix(source)
        path, number = folder / f"{source.stem}{suffix}", 2
        while _identity(path) in taken:
            path, number = folder / f"{source.stem}_{number}{suffix}", number + 1
        taken.add(_identity(path))
        paths.append(path)
    return paths


def picture_suffix(source: Path) -> str:
    """The suffix of a source's picture.

    Args:
        source: an image file.
    """
    suffix = source.suffix.lower()
    if suffix in _LOSSLESS_SUFFIXES:
        return ".png"
    return suffix if suffix in _JPEG_SUFFIXES else ".jpg"


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture, as PNG or as JPEG of quality 95 by its suffix.

    Args:
        path: the file, replaced as a whole once the new one is complete.
        picture: an RGB image.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
    write_file(path, picture_file(picture, path.suffix))


def picture_file(picture: Image.Image, suffix: str) -> bytes:
    """What :func:`write_picture` writes.

    Args:
        picture: an RGB image.
        suffix: ``.png``, or any other for JPEG.
    """
    file = io.BytesIO()
    if suffix == ".png":
        picture.save(file, "PNG", compress_level=3)
    else:  # full chroma resolution: thin coloured lines smear without it
        picture.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def write_file(path: Path, content: bytes) -> None:
    """Write a file.

    Args:
        path: of it, replaced as a whole once the new one is complete.
        content: of it.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    with replacing(path) as part:
        part.write_bytes(content)


def _identity(path: Path) -> str:
    return str(path.resolve()).casefold()
