"""Text and numbers as a page shows them."""

from __future__ import annotations

import html
import math

KIND_WORDS = {
    "class": "right place, wrong class",
    "location": "right class, IoU 0.1 to 0.5",
    "both": "wrong class, IoU 0.1 to 0.5",
    "duplicate": "an object that a better detection has",
    "background": "nothing there, IoU at most 0.1",
    "missed": "objects without a detection that is right, or wrong in class or place alone",
}
"""What each of TIDE's kinds is."""


def escape(text: object) -> str:
    """A text safe within HTML and its attributes, whatever a name holds."""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return html.escape(shown, quote=True)


def percent(value: float | None) -> str:
    """0.574 as ``57.4``; ``-`` for what is not there."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """Three decimals, rounded down, so that a threshold keeps what it is named after."""
    if value is None or math.isnan(value):
        return "-"
    return f"{math.floor(value * 1000 + 1e-9) / 1000:.3f}"


def change(value: float | None, coloured: bool = True) -> str:
    """A difference in percent, with its sign; coloured where more is better."""
    if value is None or math.isnan(value):
        return "-"
    points = round(100 * value, 1)
    if points == 0:
        return "0.0"
    text = f"{points:+.1f}".replace("-", "\u2212")
    return f'<span class="{"up" if points > 0 else "down"}">{text}</span>' if coloured else text


def plural(count: int, one: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count} {one}" + "s" * (count != 1)
