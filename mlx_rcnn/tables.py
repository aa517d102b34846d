"""Text in columns, as wide as a terminal shows it."""

from __future__ import annotations

import unicodedata


def display_width(text: str) -> int:
    """Columns that a line takes in a terminal, by Unicode's East Asian Width (UAX 11)."""
    # 2 for each wide letter (Chinese, Japanese, Korean, emoji), 0 for each mark on another
    return sum(_columns(letter) for letter in text)


def pad(text: str, width: int, right: bool = False) -> str:
    """A line filled up with blanks to a width in columns; a wider one stays."""
    blanks = " " * (width - display_width(text))
    return blanks + text if right else text + blanks


def _columns(letter: str) -> int:
    if letter.isascii():
        return 1
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
