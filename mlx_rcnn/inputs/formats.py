"""What a file is that does not open as an image, told by its first bytes."""

from __future__ import annotations

import struct
from typing import BinaryIO

_CONVERT = "convert it to JPEG or PNG"
_HEIC = "HEIC is not supported; convert it to JPEG (on macOS: sips -s format jpeg FILE)"
RAW = f"a camera's raw file, which is not developed here; {_CONVERT}"
"""What is said of raw photos."""

_VIDEO = "a video; extract its frames as images"
_ARCHIVE = "an archive; unpack it"
_PAGE = "a web page saved under an image's name; download the image again"

# (offset, bytes, what it is); the first that fits.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the image; run `git lfs pull`"),
    (0, b"\xff\xd8", "starts as a JPEG does, but its header is damaged"),
    (0, b"\x89PNG\r\n\x1a\n", "starts as a PNG does, but its header is damaged"),
    (0, b"GIF8", "starts as a GIF does, but its header is damaged"),
    (0, b"%PDF", f"a PDF document; {_CONVERT}"),
    (0, b"%!PS", f"a PostScript document; {_CONVERT}"),
    (0, b"8BPS", f"a Photoshop document; {_CONVERT}"),
    (0, b"gimp xcf", f"a GIMP document; {_CONVERT}"),
    (0, b"\xff\x0a", f"JPEG XL, which is not supported; {_CONVERT}"),
    (0, b"\0\0\0\x0cJXL ", f"JPEG XL, which is not supported; {_CONVERT}"),
    (0, b"\0\0\0\x0cjP  ", f"JPEG 2000, which this Pillow does not read; {_CONVERT}"),
    (0, b"II\xbc", f"JPEG XR, which is not supported; {_CONVERT}"),
    (0, b"v/1\x01", f"OpenEXR, which is not supported; {_CONVERT}"),
    (0, b"#?RADIANCE", f"Radiance HDR, which is not supported; {_CONVERT}"),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIRS", RAW),
    (0, b"MMOR", RAW),
    (0, b"IIU\0", RAW),
    (4, b"ftypcrx ", RAW),
    (4, b"ftypavi", "AVIF, which this Pillow does not read; update Pillow (pip install -U pillow)"),
    *((4, b"ftyp" + brand, _HEIC) for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    (4, b"ftyp", _VIDEO),
    (4, b"moov", _VIDEO),
    (8, b"AVI ", _VIDEO),
    (0, b"\x1aE\xdf\xa3", _VIDEO),
    (8, b"WEBP", "starts as a WebP does, but is damaged, or this Pillow does not read WebP"),
    (0, b"PK\x03\x04", _ARCHIVE),
    (0, b"\x1f\x8b", _ARCHIVE),
    (0, b"Rar!", _ARCHIVE),
    (0, b"7z\xbc\xaf", _ARCHIVE),
    (128, b"DICM", f"DICOM, which is not supported; {_CONVERT}"),
    (0, b"\x93NUMPY", "a NumPy array; load it with numpy.load and pass the array"),
    (0, b"\x89HDF", "an HDF5 file; pass its arrays"),
    (0, b"\0\x05\x16\x07", "a side file of macOS (AppleDouble), not the image"),
    (0, b"II*\0", "starts as a TIFF does, but is damaged or of a kind Pillow does not know"),
    (0, b"MM\0*", "starts as a TIFF does, but is damaged or of a kind Pillow does not know"),
)
_DNG_VERSION, _SUBFILE_TYPE, _SUB_IFDS = 50706, 254, 330


def unknown_format(head: bytes, suffix: str = "") -> str:
    """Why a file's first 512 bytes do not open as an image, as a part of a sentence."""
    for offset, magic, what in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return what
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return f"SVG, which is drawn of lines, not pixels; {_CONVERT}"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return f"not an image but {_PAGE}"
    if not head.strip(b"\0"):
        return "not an image: it holds zeros, as a copy that failed leaves behind"
    if suffix.lower() in (".heic", ".heif"):
        return _HEIC
    return "not an image, or a format Pillow does not know"


def raw_photo(image: object) -> str | None:
    """What to say of a TIFF that is a raw photo, which Pillow opens as its thumbnail; or None."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    # A preview in front of further pictures is how NEF and ARW are laid out.
    reduced = tags.get(_SUBFILE_TYPE, 0) == 1 and _SUB_IFDS in tags
    return RAW if _DNG_VERSION in tags or reduced else None


def looks_whole(file: BinaryIO, kind: str | None, size: int) -> bool:
    """Whether a file has its end by structure alone; false if only decoding can tell."""
    # ``kind`` is Pillow's name of the format
    if kind in ("JPEG", "MPO"):
        file.seek(max(size - 64, 0))
        return file.read().rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if kind == "PNG":
        return _png_ends(file, size)
    if kind == "WEBP":
        file.seek(4)
        return int(struct.unpack("<I", file.read(4))[0]) + 8 <= size
    if kind == "GIF":
        file.seek(max(size - 64, 0))
        return file.read().rstrip(b"\0\r\n").endswith(b";")
    return False


def _png_ends(file: BinaryIO, size: int) -> bool:
    """Whether all chunks are there, and none after the pixels that Pillow reads only with them."""
    at, pixels = 8, False
    while at + 12 <= size:
        file.seek(at)
        length, name = struct.unpack(">I4s", file.read(8))
        if name == b"IEND":
            return pixels
        pixels |= name == b"IDAT"
        if pixels and name in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
            return False
        at += length + 12
    return False
