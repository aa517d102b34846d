"""Image files opened: one way for all who read pixels and for the check of data sets.

What Pillow leaves to its formats is settled here: which way up a picture is, whether it is whole,
and what is said of one that cannot be read.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .formats import looks_whole, raw_photo, unknown_format
from .pixels import ImageError, reason, to_rgb

_ORIENTATION = 0x0112  # EXIF 2.32
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = {**_TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_SIDEWAYS = (5, 6, 7, 8)
# Modes that always become pixels; others have values that must be seen first.
_PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B")

Size = tuple[int, int]


def load_image_file(
    path: str | os.PathLike[str], upright: bool = True, levels: str | None = None
) -> np.ndarray:
    """The pixels (H, W, 3) of an image file, uint8 or float32 in [0, 1]; ImageError if damaged."""
    path = _existing(path)
    try:
        with Image.open(path) as image:
            # H and W are the ``upright`` or the stored size of :func:`file_sizes`
            return _pixels(image, str(path), upright, levels)[0]
    except (PermissionError, ImageError):
        raise
    # On broken files Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        raise _named(str(path), error, *_head(path)) from error


def load_image_bytes(
    data: bytes, name: str = "the image", formats: Sequence[str] | None = None
) -> np.ndarray:
    """The pixels of an image file that is in memory, as :func:`load_image_file` reads it."""
    # Pillow's names of those that are opened, for data from strangers: some of its readers start
    # other programs.
    with opened_bytes(data, name, formats) as image:
        try:
            return _pixels(image, name, True)[0]
        except ImageError:
            raise
        except Exception as error:
            raise _named(name, error, data[:512]) from error


def opened_bytes(
    data: bytes, name: str = "the image", formats: Sequence[str] | None = None
) -> Image.Image:
    """The picture of a file in memory, its header read and no pixel decoded; or ImageError."""
    if formats is not None:
        Image.init()  # what this Pillow was built without is not opened
        formats = [kind for kind in formats if kind in Image.OPEN]
    try:
        # its ``size`` is (width, height) as stored
        return Image.open(io.BytesIO(data), formats=formats)
    except Exception as error:
        raise _named(name, error, data[:512]) from error


def file_sizes(path: str | os.PathLike[str], levels: str | None = None) -> tuple[Size, Size]:
    """(height, width) of an image file as stored and upright, once it is known to be whole."""
    path = _existing(path)
    try:
        # That the end of a JPEG, PNG, WebP, GIF or TIFF is there costs no decoding.
        with Image.open(path) as image:
            if image.mode in _PLAIN and _has_end(image, path) and not raw_photo(image):
                turn = _orientation(image)
                stored = _stored_size(image)
                return stored, _turned(stored, turn)
            # Where it is missing, and for other formats and for values that must be seen, the
            # picture is read as ``load_image_file`` reads it: what passes here loads, but for
            # damage in the midst of pixels.
            pixels, turn = _pixels(image, str(path), True, levels)
    except (PermissionError, ImageError):
        raise
    except Exception as error:
        raise _named(str(path), error, *_head(path)) from error
    upright = pixels.shape[0], pixels.shape[1]
    return _turned(upright, turn), upright


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected an image file")
    if not path.exists():
        raise FileNotFoundError(f"no such image: {path}")
    if not path.is_file():  # a pipe would be waited for
        raise ImageError(f"cannot read {path}: it is no regular file")
    if path.stat().st_size == 0:
        raise ImageError(f"cannot read {path}: the file is empty")
    return path


def _pixels(
    image: Image.Image, name: str, upright: bool, levels: str | None = None
) -> tuple[np.ndarray, int]:
    """The pixels, and the orientation the file asks for."""
    raw = raw_photo(image)
    if raw is not None:
        raise ImageError(f"cannot read {name}: {raw}")
    deep = _is_deep(image)
    if image.format == "PNG":
        image.load()  # its EXIF may lie behind its pixels
    # Before others are decoded: Pillow turns TIFFs, and only these, as it decodes them, and then
    # forgets how.
    turn = _orientation(image)
    image.load()
    if turn in _TURNS and (image.format == "TIFF") != upright:
        image = image.transpose((_TURNS if upright else _BACK)[turn])
    return to_rgb(image, name, deep, levels), turn


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, as stored, where it is missing or the EXIF block is damaged."""
    # The pixels are whole then, and other readers show them.
    try:
        # Not PNG's own method, which decodes the pixels.
        turn = Image.Image.getexif(image).get(_ORIENTATION, 1)
    # SyntaxError, struct.error, ValueError, KeyError, ... as the damage has it
    except Exception:
        return 1
    return turn if turn in _TURNS else 1


def _stored_size(image: Image.Image) -> Size:
    """(height, width); an opened TIFF may give its size as turned already."""
    width, height = image.size
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags.get(256, width), tags.get(257, height)
    return int(height), int(width)


def _turned(size: Size, turn: int) -> Size:
    return size[::-1] if turn in _SIDEWAYS else size


def _is_deep(image: Image.Image) -> bool:
    """Whether colours have 16 bits, of which Pillow keeps the high byte."""
    if image.mode in ("RGB", "RGBA", "LA"):
        return any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    return False


def _has_end(image: Image.Image, path: Path) -> bool:
    if image.format == "TIFF":
        return _strips_end(image, path.stat().st_size)
    file = getattr(image, "fp", None)
    if file is None:
        return False
    place = file.tell()
    try:
        return looks_whole(file, image.format, path.stat().st_size)
    except struct.error:
        return False
    finally:
        file.seek(place)


def _strips_end(image: Image.Image, size: int) -> bool:
    """Whether a TIFF's strips or tiles, by their offsets and lengths, are in the file."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    for places, lengths in ((273, 279), (324, 325)):
        ends = [a + b for a, b in zip(tags.get(places, ()), tags.get(lengths, ()), strict=False)]
        if ends:
            return bool(max(ends) <= size)
    return False


def _head(path: Path) -> tuple[bytes, str]:
    """What tells a file's kind: its first bytes and its suffix."""
    with path.open("rb") as file:
        return file.read(512), path.suffix


def _named(name: str, error: Exception, head: bytes, suffix: str = "") -> ImageError:
    if isinstance(error, UnidentifiedImageError):
        return ImageError(f"cannot read {name}: {unknown_format(head, suffix)}")
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(
            f"cannot read {name}: the image is larger than Pillow opens: {reason(error)} Cut it "
            "into tiles or make it smaller; PIL.Image.MAX_IMAGE_PIXELS is the limit"
        )
    return ImageError(f"cannot read {name}: {reason(error)}")
