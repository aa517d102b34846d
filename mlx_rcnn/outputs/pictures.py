"""Annotated pictures on disk: under which name, and how written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..files import replacing
from ..inputs.windows import file_and_page

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
        suffix. A page of a TIFF has its number in the name. Where two would share a name, or one
        would overwrite a source, ``_2``, ``_3`` ... is added. Names that differ in case alone count
        as the same, as they are on macOS.
    """
    taken = {_identity(source) for source in sources}
    paths = []
    for source in sources:
        suffix, stem = file_and_page(source)[0].suffix.lower(), picture_stem(source)
        if suffix in _LOSSLESS_SUFFIXES:
            suffix = ".png"
        elif suffix not in _JPEG_SUFFIXES:
            suffix = ".jpg"
        path, number = folder / f"{stem}{suffix}", 2
        while _identity(path) in taken:
            path, number = folder / f"{stem}_{number}{suffix}", number + 1
        taken.add(_identity(path))
        paths.append(path)
    return paths


def picture_stem(source: Path) -> str:
    """The name, without a suffix, that pictures made of an image begin with: ``stack_page2``."""
    path, page = file_and_page(source)
    return path.stem if page is None else f"{path.stem}_page{page}"


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture, as PNG or as JPEG of quality 95 by its suffix.

    Args:
        path: the file, replaced as a whole once the new one is complete.
        picture: an RGB image.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
    with replacing(path) as part:
        if path.suffix == ".png":
            picture.save(part, "PNG", compress_level=3)
        else:  # full chroma resolution: thin coloured lines smear without it
            picture.save(part, "JPEG", quality=95, subsampling=0)


def _identity(path: Path) -> str:
    return str(path.resolve()).casefold()
