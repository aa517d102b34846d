"""Names and scores beside their boxes: where each goes, and what it looks like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from PIL import ImageDraw

from .lettering import font

Color = tuple[int, int, int]
Rect = tuple[int, int, int, int]
SMALLEST_FONT = 8


class Style(NamedTuple):
    """Sizes in pixels, chosen from the image's: ``line`` of boxes, ``edge`` of masks, ``font``."""

    line: int
    edge: int
    font: int


class Tag(NamedTuple):
    """A label ready to draw: its filled rectangle, its text and the text's size."""

    rect: Rect
    text: str
    font: int


def place_tag(
    box: Rect,
    name: str,
    score: float | None,
    style: Style,
    size: tuple[int, int],
    taken: Sequence[Rect],
) -> Tag | None:
    """Where a tag hides least of the better ones: above its box, inside at the top, or below."""
    small = box[3] - box[1] < 4 * style.font  # a full size tag would bury a small object
    letters = max(SMALLEST_FONT, round(style.font * 0.85)) if small else style.font
    text = _fit_text(name, score, letters, size[0])
    if not text:
        return None
    tag_width, tag_height, _ = _extent(text, letters)
    best: tuple[float, Rect] | None = None
    right = box[2] + 1 - tag_width
    for x, y in (
        (box[0], box[1] - tag_height),
        (box[0] + style.line, box[1] + style.line),
        (right, box[1] - tag_height),
        (box[0], box[3] + 1),
        (right - style.line, box[3] + 1 - style.line - tag_height),
    ):
        x = max(0, min(x, size[0] - tag_width))
        y = max(0, min(y, size[1] - tag_height))
        rect = (x, y, x + tag_width - 1, y + tag_height - 1)
        hidden = sum(_overlap(rect, other) for other in taken)
        if best is None or hidden < best[0]:
            best = hidden, rect
        if not hidden:
            break
    assert best is not None
    return Tag(best[1], text, letters)


def _fit_text(name: str, score: float | None, letters: int, width: int) -> str:
    """The longest of name and score, name, and shortened name that an image is wide enough for."""
    for text in (name,) if score is None else (f"{name} {score:.2f}", name):
        if _extent(text, letters)[0] <= width:
            return text
    for end in range(len(name) - 1, 0, -1):
        if _extent(name[:end] + ".", letters)[0] <= width:
            return name[:end] + "."
    return ""


@lru_cache(maxsize=4096)
def _extent(text: str, size: int) -> tuple[int, int, int]:
    """Width and height of a tag and its inner margin, in pixels."""
    margin = max(1, round(size * 0.2))
    letters = font(text, size)
    ascent, descent = letters.getmetrics()
    return math.ceil(letters.getlength(text)) + 2 * margin, ascent + descent + margin, margin


def _overlap(a: Rect, b: Rect) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(0, width) * max(0, height)


def draw_tag(draw: ImageDraw.ImageDraw, tag: Tag, color: Color) -> None:
    """Fill a tag's rectangle and write its text."""
    draw.rectangle(tag.rect, fill=color)
    margin = _extent(tag.text, tag.font)[2]
    letters = font(tag.text, tag.font)
    ascent, _ = letters.getmetrics()
    x, y = tag.rect[0] + margin, tag.rect[1] + margin // 2 + ascent
    draw.text((x, y), tag.text, fill=ink(color), font=letters, anchor="ls")


@lru_cache(maxsize=1024)
def ink(color: Color) -> Color:
    """Black or white, whichever contrasts more on ``color`` (WCAG 2's ratio): at least 4.5."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Equal contrast where (1 + 0.05) / (luminance + 0.05) = (luminance + 0.05) / 0.05.
    return (0, 0, 0) if luminance > math.sqrt(1.05 * 0.05) - 0.05 else (255, 255, 255)
