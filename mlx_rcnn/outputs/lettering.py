"""Fonts that have the letters of a text, and what is written where no font has them."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import cast

from PIL import ImageFont

OWN_FONT = Path(__file__).parent / "fonts" / "DejaVuSans-subset.ttf"
"""DejaVu Sans cut to Latin, Greek and Cyrillic; its licence lies beside it."""

# Of many scripts first, so that few files are opened.
_USUAL = (
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "Arial Unicode.ttf",
    "GeezaPro.ttc",
    "msyh.ttc",
    "YuGothR.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "DejaVuSans.ttf",
    "FreeSans.ttf",
    "NotoSans-Regular.ttf",
)
_FOLDERS = {
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
}
_OTHER_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_SUFFIXES = (".ttf", ".otf", ".ttc")
_NO_LETTERS = "lastresort"  # macOS' font of frames around the name of a script
_MOST_FILES = 2000
_PROBE = 16  # pixels, at which two letters differ
_SCORE = " .0123456789"  # is written in the same font
_NONE = "none"
_MISSING = "\uffff"  # no character, in no font


def readable(text: str, label: int) -> str:
    """A class's name as it can be written: itself where a font has it, else with its number."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if font_path(text + _SCORE) != _NONE:
        return text
    words = "".join(_spelled(letter) for letter in text)
    # without marks, the missing letters as code points: ``12 U+732B``
    return f"{label} {' '.join(words.split())}"


@lru_cache(maxsize=256)
def font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of Pillow (its own, DejaVu Sans or one of the system) that has a text's letters."""
    path = font_path(text)
    return _open(None if path == _NONE else path, size)


@lru_cache(maxsize=4096)
def font_path(text: str) -> str | None:
    """The first font that has all letters; ``None`` is Pillow's own, ``"none"`` no font at all."""
    letters = frozenset(text)
    if letters <= frozenset(map(chr, range(32, 127))):
        return None
    if _covers(str(OWN_FONT), letters):
        return str(OWN_FONT)
    return next((path for path in _system_fonts() if _covers(path, letters)), _NONE)


def _spelled(letter: str) -> str:
    """The letter, its base without marks, or its code."""
    own = str(OWN_FONT)
    for text in (letter, _without_marks(letter)):
        if text and _covers(own, frozenset(text)):
            return text
    return f" U+{ord(letter):04X} "


def _without_marks(letter: str) -> str:
    parts = unicodedata.normalize("NFKD", letter)
    return "".join(part for part in parts if not unicodedata.combining(part))


def _covers(path: str, letters: frozenset[str]) -> bool:
    return all(letter == " " or _has(path, letter) for letter in letters)


@lru_cache(maxsize=65536)
def _has(path: str, letter: str) -> bool:
    try:
        found = _open(path, _PROBE)
        return _shape(found, letter) not in (_shape(found, _MISSING), None)
    except (OSError, ValueError):  # of one size alone, damaged, or no font at all
        return False


def _shape(found: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes] | None:
    """What a font draws; ``None`` for nothing, as some draw what they lack."""
    mask = found.getmask(letter)
    drawn = bytes(mask)
    return (mask.size, drawn) if any(drawn) else None


@lru_cache(maxsize=256)
def _open(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    if path is not None:
        return ImageFont.truetype(path, size)
    # of a size it is of FreeType, or an ImportError
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=size))


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """The fonts of the system, the usual ones first."""
    files = list(_files())
    usual = {name: at for at, name in enumerate(_USUAL)}
    files.sort(key=lambda path: (usual.get(path.name, len(usual)), path.name))
    return tuple(map(str, files))


def _files() -> Iterator[Path]:
    count = 0
    for folder in _FOLDERS.get(sys.platform, _OTHER_FOLDERS):
        for path in sorted(Path(folder).expanduser().rglob("*")):
            if path.suffix.lower() not in _SUFFIXES or _NO_LETTERS in path.name.lower():
                continue
            count += 1
            if count > _MOST_FILES:
                return
            yield path
