"""A little colour, on a terminal alone."""

from __future__ import annotations

import os
from typing import Literal, TextIO, TypeAlias

Colour: TypeAlias = Literal["red", "yellow"]
_CODES: dict[Colour, str] = {"red": "\x1b[1;31m", "yellow": "\x1b[1;33m"}
_RESET = "\x1b[0m"


def coloured(text: str, colour: Colour, stream: TextIO | None) -> str:
    """A text in colour where that can be seen, else as it is."""
    return f"{_CODES[colour]}{text}{_RESET}" if has_colours(stream) else text


def has_colours(stream: TextIO | None) -> bool:
    """Whether a stream is to have colours, by the rules of Python's own output."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    if stream is None or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()
