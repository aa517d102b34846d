"""TIFF files read by windows: pages and pyramids that never are in memory as a whole.

tifffile (extra ``tiff``) reads the tags and decodes single tiles or strips; which of them a window
needs, and what their values mean, is settled here.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

import numpy as np

from ..files import Closing
from .depth import Depth
from .formats import unknown_format
from .pixels import ImageError, reason
from .tiff_plane import Plane

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_ASIDE = ("thumbnail", "label", "macro", "overview")  # beside the slide in scanners' files
_DNG_VERSION = 50706
# How a stored picture becomes upright: transposed, then its rows and columns reversed (TIFF 6).
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

Size = tuple[int, int]


def load_tifffile() -> ModuleType:
    """The library tifffile; an ImportError says how to install it."""
    try:
        return import_module("tifffile")
    except ImportError as error:
        raise ImportError(
            "reading windows, pages or levels of a TIFF needs tifffile: "
            'pip install "mlx-rcnn[tiff]" (or pip install tifffile)'
        ) from error


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a TIFF does, whatever its name; False if it cannot be opened."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in _MAGIC
    except OSError:
        return False


def count_pages(path: str | os.PathLike[str]) -> int:
    """How many pictures a TIFF holds, the levels of a pyramid being one."""
    with TiffImage(path) as image:
        return image.pages


class TiffImage(Closing):
    """One page of a TIFF, upright and in RGB, of which windows are read: ``image[rows, columns]``.

    Grey, RGB, palettes and alpha (which is dropped) become RGB, values of more than 8 bits 8 bits,
    as :func:`~mlx_rcnn.load_image` has it; the largest value, which decides that, is looked for in
    one pass over the page, at the first window. Decoded tiles are kept up to 256 MB. Threads may
    share it. The file is closed with the last of its images, or by :meth:`close`.

    Args:
        path: the file: TIFF, BigTIFF, OME-TIFF, SVS and others that tifffile reads.
        page: which picture, counted from 1. Thumbnail, label and macro of a scanner's file are no
            pages. Default: ``1``.
        levels: which values are black and white, of more than 8 bits and of floats, as
            :func:`~mlx_rcnn.load_image` takes them; here in colours, too. Default: ``None``.

    Attributes:
        path, page: as given.
        pages (int): how many the file holds.
        sizes: (height, width) of every level of the page's pyramid, the full resolution first.
        level (int): of which windows are read, 0: the full resolution (:meth:`at_level`).

    Raises:
        ImportError: tifffile is not installed, or imagecodecs, which its compression needs.
        ImageError: it is no TIFF, is damaged, has no such page, or is of another kind.
        OSError: it cannot be opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], page: int = 1, levels: str | None = None
    ) -> None:
        self.path, self.page, self.level = Path(path), page, 0
        tifffile = load_tifffile()
        self._file = _File(_opened(tifffile, self.path))
        found = _pages(self._file.tiff, self.path)
        self.pages = len(found)
        if not 1 <= page <= len(found):
            raise ImageError(f"{path} has no page {page}: expected 1 to {len(found)}")
        lock = RLock()
        self._planes = [Plane(self._file.tiff, p, self._name, lock) for p in found[page - 1]]
        self._turn = _TURNS.get(_orientation(found[page - 1][0]), (False, False, False))
        self.sizes = [self._turned((p.height, p.width)) for p in self._planes]
        self._depth = Depth(self._name, self._planes[0], levels)

    @property
    def _name(self) -> str:
        return str(self.path) if self.page == 1 else f"{self.path}, page {self.page}"

    @property
    def size(self) -> Size:
        """(height, width) of level 0."""
        return self.sizes[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of the level."""
        return (*self.sizes[self.level], 3)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of windows: uint8, or float32 in [0, 1] of floats."""
        return self._depth.result

    @property
    def scale(self) -> np.ndarray:
        """(2,) float64: pixels of level 0 in one of the level, down and across."""
        whole, own = (np.array(side, np.float64) for side in (self.size, self.sizes[self.level]))
        scale: np.ndarray = whole / own
        return scale

    def at_level(self, level: int) -> TiffImage:
        """The same page, to read windows of another level; the open file is shared.

        Args:
            level: 0 to ``len(sizes) - 1``.

        Raises:
            ImageError: there is no such level.
        """
        if not 0 <= level < len(self.sizes):
            listed = ", ".join(f"{width}x{height}" for height, width in self.sizes)
            raise ImageError(
                f"{self._name} has no level {level}: expected 0 to {len(self.sizes) - 1} ({listed})"
            )
        other: TiffImage = object.__new__(TiffImage)
        other.__dict__.update(self.__dict__)
        other.level = level
        return other

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """(h, w, 3) uint8, or float32 in [0, 1] of floats.

        Args:
            window: slices of rows and columns, of step 1, in pixels of the level.
        """
        rows, columns = window
        height, width = self.sizes[self.level]
        top, bottom, _ = rows.indices(height)
        left, right, _ = columns.indices(width)
        return self._depth.rgb(self._values((top, bottom), (left, right)))

    def _values(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """(h, w, colours) of an upright window, as they are in the file."""
        transpose, flip_rows, flip_columns = self._turn
        height, width = self.sizes[self.level]
        rows = (height - rows[1], height - rows[0]) if flip_rows else rows
        columns = (width - columns[1], width - columns[0]) if flip_columns else columns
        stored = (columns, rows) if transpose else (rows, columns)
        values = self._planes[self.level].read(*stored)
        values = values.transpose(1, 0, 2) if transpose else values
        return values[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]

    def _turned(self, size: Size) -> Size:
        return size[::-1] if self._turn[0] else size

    def close(self) -> None:
        """Close the file, for all levels."""
        self._file.tiff.close()


class _File:
    """tifffile's, which lies in a cycle of references: closed once nobody reads it."""

    def __init__(self, tiff: Any) -> None:
        self.tiff = tiff

    def __del__(self) -> None:
        self.tiff.close()


def _opened(tifffile: ModuleType, path: Path) -> Any:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected a TIFF file")
    if not path.exists():
        raise FileNotFoundError(f"no such image: {path}")
    if not is_tiff(path):
        with path.open("rb") as file:  # what cannot be opened says why
            head = file.read(512)
        other = unknown_format(head, path.suffix)
        what = f"no TIFF, but {other}" if head else "the file is empty"
        raise ImageError(f"cannot read {path}: {what}")
    try:
        return tifffile.TiffFile(path)
    except OSError:
        raise
    except Exception as error:  # struct.error, TiffFileError, ... as the damage has it
        raise ImageError(f"cannot read {path}: a damaged TIFF: {reason(error)}") from error


def _pages(file: Any, path: Path) -> list[list[Any]]:
    """The levels of every picture, full resolution first."""
    found: list[list[Any]] = []
    try:
        first = file.pages.first
        if _DNG_VERSION in first.tags or (first.is_reduced and first.subifds):
            raise ImageError(
                f"cannot read {path}: a camera's raw file, which is not developed here"
            )
        for series in file.series:
            if str(series.name).strip().lower() in _ASIDE:
                continue
            pages = len(series.pages)
            if series.size > pages * series.keyframe.size:
                raise ImageError(
                    f"cannot read {path}: several pictures behind one page (an ImageJ stack of "
                    "more than 4 GB?): expected a page each; save it as BigTIFF"
                )
            levels = [level for level in series.levels if len(level.pages) == pages]
            found += [[level.pages[i] for level in levels] for i in range(pages)]
    except (ImageError, OSError):
        raise
    except Exception as error:
        raise ImageError(f"cannot read {path}: a damaged TIFF: {reason(error)}") from error
    found = [levels for levels in found if all(page is not None for page in levels)]
    if not found:
        raise ImageError(f"cannot read {path}: a TIFF without a picture")
    return found


def _orientation(page: Any) -> int:
    tag = page.keyframe.tags.get(274)
    return int(tag.value) if tag is not None and isinstance(tag.value, int) else 1
