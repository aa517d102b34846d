"""One stored picture of a TIFF: the values of a window, from the tiles or strips it touches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from .pixels import ImageError, reason

KEPT = 256 << 20  # bytes of decoded tiles and strips that a picture keeps
_BLOCK = 4 << 20  # values in a block of a pass over all of them
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_JPEG = (6, 7, 34892, 33007)

Span = tuple[int, int]


class Plane:
    """A page of a TIFF as it is stored, grey or RGB; ImageError for a kind that is not read."""

    def __init__(
        self, file: Any, page: Any, name: str, lock: AbstractContextManager[object]
    ) -> None:
        self._file, self._page, self._key = file.filehandle, page, page.keyframe
        self._name, self._lock = name, lock
        self._kept: OrderedDict[int, np.ndarray | None] = OrderedDict()
        self._bytes = 0
        key = self._key
        self.height, self.width = int(key.imagelength), int(key.imagewidth)
        self._samples = int(key.samplesperpixel)
        self._separate = int(key.planarconfig) == 2 and self._samples > 1
        self._chunk = (
            (int(key.tilelength), int(key.tilewidth))
            if key.is_tiled
            else (min(int(key.rowsperstrip), self.height), self.width)
        )
        self._grid = -(-self.height // self._chunk[0]), -(-self.width // self._chunk[1])
        self._check()
        photometric = int(key.photometric)
        self._invert = photometric == _WHITE_IS_ZERO
        self._palette = _colours(key) if photometric == _PALETTE else None
        self.colours = 3 if photometric in (_RGB, _YCBCR, _PALETTE) else 1
        stored = np.dtype(key.dtype).newbyteorder("=")
        bytes_now = stored.kind == "b" or self._palette is not None
        self.dtype = np.dtype(np.uint8) if bytes_now else stored
        self._stored = stored
        plain = int(key.compression) == 1 and int(key.predictor) == 1 and int(key.fillorder) == 1
        self._plain = plain and int(key.bitspersample) == 8 * stored.itemsize

    def _check(self) -> None:
        key, photometric = self._key, int(self._key.photometric)
        colours = {_RGB: (3, 4), _YCBCR: (3,), _PALETTE: (1,)}.get(photometric, (1, 2))
        kinds = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR)
        bad = photometric not in kinds or self._samples not in colours
        if photometric == _YCBCR and int(key.compression) not in _JPEG:
            bad = True
        if key.dtype is None or np.dtype(key.dtype).kind not in "buif" or key.imagedepth > 1:
            bad = True
        if photometric == _PALETTE and not bad:
            bad = np.dtype(key.dtype) != np.uint8 or key.colormap is None
        if bad:
            words = getattr(key.photometric, "name", str(photometric))
            raise ImageError(
                f"cannot read {self._name}: {words} with {self._samples} values a pixel of "
                f"{key.bitspersample} bits: expected grey, RGB, either with alpha, or a palette"
            )
        try:
            key.decode(None, 0)
        except (ValueError, NotImplementedError) as error:
            kind = getattr(key.compression, "name", key.compression)
            if "imagecodecs" in str(error):
                raise ImportError(
                    f"{self._name} is compressed by {kind}, which needs imagecodecs: "
                    "pip install imagecodecs"
                ) from error
            raise ImageError(f"cannot read {self._name}: {reason(error)}") from error

    def blocks(self) -> Iterator[tuple[Span, Span]]:
        """Rows and columns of windows that cover the picture, each stored piece in one of them."""
        tall, wide = self._chunk
        down = max(1, round((_BLOCK / (wide * self._samples)) / tall))
        across = 1 if self._grid[1] == 1 else max(1, _BLOCK // (tall * wide * self._samples))
        down = down if self._grid[1] == 1 or across >= self._grid[1] else 1
        if self._plain:
            down = max(1, min(down, _BLOCK // (tall * wide * self._samples) or 1))
            tall = min(tall, max(1, _BLOCK // (wide * self._samples)))
        for top in range(0, self.height, tall * down):
            for left in range(0, self.width, wide * across):
                bottom = min(top + tall * down, self.height)
                yield (top, bottom), (left, min(left + wide * across, self.width))

    def read(self, rows: Span, columns: Span) -> np.ndarray:
        """(h, w, colours): values of a window, white high, alpha dropped, palettes looked up."""
        # spans: first and one past the last
        shape = (rows[1] - rows[0], columns[1] - columns[0], self._samples)
        values = np.full(shape, self._key.nodata, self._stored)
        for row in range(rows[0] // self._chunk[0], -(-rows[1] // self._chunk[0])):
            for column in range(columns[0] // self._chunk[1], -(-columns[1] // self._chunk[1])):
                self._copy(values, (row, column), rows, columns)
        return self._meant(values)

    def _meant(self, values: np.ndarray) -> np.ndarray:
        if self._palette is not None:
            looked_up: np.ndarray = self._palette[values[..., 0]]
            return looked_up
        values = values[..., : self.colours]
        if values.dtype == bool:
            values = values * np.uint8(255)
        if self._invert:
            most = 1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
            values = most - values
        return values

    def _copy(self, out: np.ndarray, place: Span, rows: Span, columns: Span) -> None:
        """Put what a stored piece has of a window into it."""
        spans = []
        for at, side, (low, high), end in zip(
            place, self._chunk, (rows, columns), (self.height, self.width), strict=True
        ):
            start = at * side
            spans.append((start, max(low, start), min(high, start + side, end)))
        (y, top, bottom), (x, left, right) = spans
        inside = (top - y, bottom - y), (left - x, right - x)
        to = slice(top - rows[0], bottom - rows[0]), slice(left - columns[0], right - columns[0])
        number = place[0] * self._grid[1] + place[1]
        for plane in range(self._samples if self._separate else 1):
            index = plane * self._grid[0] * self._grid[1] + number
            into = out[(*to, slice(plane, plane + 1))] if self._separate else out[to]
            if self._plain:
                self._copy_plain(into, index, *inside)
            elif (piece := self._decoded(index)) is not None:
                into[:] = piece[slice(*inside[0]), slice(*inside[1])]

    def _copy_plain(self, out: np.ndarray, index: int, rows: Span, columns: Span) -> None:
        """Rows of an uncompressed piece, and no more of it."""
        offset, length = self._place(index)
        if not length:
            return
        pixel = self._stored.itemsize * (1 if self._separate else self._samples)
        wide = self._chunk[1] * pixel
        count = (columns[1] - columns[0]) * pixel
        order = self._stored.newbyteorder(self._page.parent.byteorder)
        for i, row in enumerate(range(*rows)):
            data = self._bytes_at(offset + row * wide + columns[0] * pixel, count)
            out[i] = np.frombuffer(data, order).reshape(out.shape[1:])

    def _decoded(self, index: int) -> np.ndarray | None:
        """(h, w, samples) of a stored piece; ``None`` of one that is left out of the file."""
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
            offset, length = self._place(index)
            piece = self._decode(index, self._bytes_at(offset, length)) if length else None
            self._kept[index] = piece
            self._bytes += 0 if piece is None else piece.nbytes
            while self._bytes > KEPT and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                self._bytes -= 0 if old is None else old.nbytes
            return piece

    def _decode(self, index: int, data: bytes) -> np.ndarray:
        options = {}
        if int(self._key.compression) in _JPEG:
            options = {"jpegtables": self._page.jpegtables, "jpegheader": self._key.jpegheader}
        try:
            piece, _, _ = self._key.decode(data, index, **options)
        except Exception as error:  # of the codec, as the damage has it
            raise ImageError(
                f"cannot read {self._name}: damaged in tile or strip {index}: {reason(error)}"
            ) from error
        decoded: np.ndarray = piece[0]
        return decoded

    def _place(self, index: int) -> Span:
        """Offset and length in the file of a stored piece; (0, 0) of one that is left out."""
        offsets, lengths = self._page.dataoffsets, self._page.databytecounts
        if index >= len(offsets) or index >= len(lengths):
            raise ImageError(
                f"cannot read {self._name}: {len(offsets)} tiles or strips, expected more than "
                f"{index}: the file is damaged"
            )
        offset, length = int(offsets[index]), int(lengths[index])
        return (offset, length) if offset and length else (0, 0)

    def _bytes_at(self, offset: int, count: int) -> bytes:
        with self._lock:
            self._file.seek(offset)
            data: bytes = self._file.read(count)
        if len(data) < count:
            raise ImageError(f"cannot read {self._name}: the file ends before its pixels do")
        return data


def _colours(key: Any) -> np.ndarray | None:
    """(n, 3) uint8 of a palette of 16 bits."""
    if key.colormap is None:
        return None
    return np.ascontiguousarray((np.asarray(key.colormap) >> 8).astype(np.uint8).T)
