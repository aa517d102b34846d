"""Annotated pictures on disk: under which name, and how written."""

from __future__ import annotations

import io
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
    """Where the annotated picture of each source goes: its stem and a suffix, in ``folder``."""
    taken = {_identity(source) for source in sources}
    paths = []
    for source in sources:
        suffix, stem = picture_suffix(source), picture_stem(source)
        path, number = folder / f"{stem}{suffix}", 2
        # Where two would share a name, or one would overwrite a source. Names that differ in case
        # alone count as the same, as they are on macOS.
        while _identity(path) in taken:
            path, number = folder / f"{stem}_{number}{suffix}", number + 1
        taken.add(_identity(path))
        paths.append(path)
    return paths


def picture_suffix(source: Path) -> str:
    """The suffix of a source's picture: ``.png`` if it is stored without loss, else JPEG's."""
    suffix = file_and_page(source)[0].suffix.lower()
    if suffix in _LOSSLESS_SUFFIXES:
        return ".png"
    return suffix if suffix in _JPEG_SUFFIXES else ".jpg"


def picture_stem(source: Path) -> str:
    """The name, without a suffix, that pictures made of an image begin with: ``stack_page2``."""
    path, page = file_and_page(source)
    return path.stem if page is None else f"{path.stem}_page{page}"


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write an RGB picture as PNG or JPEG of quality 95, the file replaced whole or untouched."""
    write_file(path, picture_file(picture, path.suffix))


def picture_file(picture: Image.Image, suffix: str) -> bytes:
    """What :func:`write_picture` writes: PNG for ``.png``, JPEG for any other suffix."""
    file = io.BytesIO()
    if suffix == ".png":
        picture.save(file, "PNG", compress_level=3)
    else:  # full chroma resolution: thin coloured lines smear without it
        picture.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def write_file(path: Path, content: bytes) -> None:
    """Write a file, replaced as a whole once the new one is complete, or left untouched."""
    with replacing(path) as part:
        part.write_bytes(content)


def _identity(path: Path) -> str:
    return str(path.resolve()).casefold()
