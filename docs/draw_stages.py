"""Draws the two stages of a detector: python docs/draw_stages.py [--check].

Writes docs/two_stages.svg; its numbers are the defaults of the package's configs.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from mlx_rcnn import MaskRCNNConfig

PICTURE = Path(__file__).resolve().with_name("two_stages.svg")
STYLE = """
text { fill: #1b2733 } .b { fill: #ffffff } .k { fill: #e6eef6; stroke: #345 }
.one { fill: #d7f0dc; stroke: #2f6b3c } .two { fill: #fde8cf; stroke: #8a5a16 }
.s { fill: none; stroke-dasharray: 5 4 } .a { stroke: #567; fill: none } .h { fill: #567 }
.w { fill: #4a5b6c } .bar { fill: #b9c9da }
@media (prefers-color-scheme: dark) {
text { fill: #e7edf3 } .b { fill: #1e2430 } .k { fill: #2c3a4c; stroke: #9db4cc }
.one { fill: #1f4a2a; stroke: #86cf98 } .two { fill: #553a12; stroke: #e5b266 }
.s { fill: none } .a { stroke: #a9bccf } .h { fill: #a9bccf } .w { fill: #b7c4d1 }
.bar { fill: #4a5d73 } }
"""
WIDE, HIGH = 1040, 420
# What each model has of the row of boxes, by their columns.
FAMILY = (
    ("Fast R-CNN", "proposals come from elsewhere", (0, 1, 3, 4)),
    ("Faster R-CNN", "", (0, 1, 2, 3, 4)),
    ("Mask, Keypoint R-CNN", "", (0, 1, 2, 3, 4, 5)),
    (
        "Cascade R-CNN",
        "three box heads in a row, each over the boxes of the one before",
        (0, 1, 2, 3, 4),
    ),
)


def default(name: str) -> object:
    """Of a Mask R-CNN's field."""
    return next(field.default for field in fields(MaskRCNNConfig) if field.name == name)


def boxes() -> list[tuple[str, str, list[str]]]:
    """(class, title, lines) of each box, from left to right."""
    side = default("pool_size")[0]  # type: ignore[index]
    mask = default("mask_out_size")
    return [
        ("k", "input", ["resized,", f"short side {default('min_size')},", "normalised,", "padded"]),
        ("k", "backbone", ["ResNet and", "pyramid:", "maps at strides", "4, 8, 16, 32, 64"]),
        (
            "one",
            "proposals",
            ["3x3 convolution:", "is something here,", "and how does its", "box move? NMS"],
        ),
        (
            "two",
            "RoIAlign",
            ["each proposal's", "features, cut out", f"of its map, {side} x {side}"],
        ),
        (
            "two",
            "box head",
            ["which class, and", "how does the box", "move? NMS by", "class"],
        ),
        ("two", "branches", ["of each detection:", f"a mask {mask} x {mask}", "or keypoints"]),
    ]


def text(x: float, y: float, words: str, more: str = "") -> str:
    """One line."""
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{words}</text>'


def row() -> list[str]:
    """The boxes, the arrows between them and what goes along these."""
    along = [
        "pixels",
        "maps",
        f"{default('rpn_post_nms_top_n_test')} boxes",
        "features",
        f"{default('box_detections_per_img')} detections",
    ]
    parts = []
    for i, (kind, title, lines) in enumerate(boxes()):
        x = left(i)
        parts.append(f'<rect class="{kind}" x="{x}" y="92" width="126" height="124" rx="8"/>')
        parts.append(text(x + 63, 116, title, 'text-anchor="middle" font-weight="bold"'))
        parts += [
            text(x + 63, 142 + 18 * j, line, 'text-anchor="middle" font-size="12"')
            for j, line in enumerate(lines)
        ]
        if i < len(along):
            parts.append(
                f'<path class="a" d="M{x + 128} 154H{x + 164}" marker-end="url(#h)" '
                'stroke-width="1.5"/>'
            )
            parts.append(
                text(x + 147, 250, along[i], 'class="w" text-anchor="middle" font-size="12"')
            )
    return parts


def left(column: int) -> int:
    """Where a box begins."""
    return 24 + 172 * column


def stages() -> list[str]:
    """The two frames."""
    found = []
    for kind, title, first, last in (("one", "first stage", 2, 2), ("two", "second stage", 3, 5)):
        x, end = left(first) - 12, left(last) + 138
        found.append(
            f'<rect class="{kind} s" x="{x}" y="30" width="{end - x}" height="200" rx="12"/>'
        )
        found.append(text(x + 14, 52, title, 'font-weight="bold"'))
    return found


def family() -> list[str]:
    """A bar for what each model has."""
    found = []
    for i, (name, note, columns) in enumerate(FAMILY):
        y = 272 + 36 * i
        for column in columns:
            joined = column + 1 in columns
            wide = 172 if joined else 126
            found.append(
                f'<rect class="bar" x="{left(column)}" y="{y}" width="{wide}" height="22"/>'
            )
        found.append(text(left(0) + 8, y + 16, name, 'font-weight="bold" font-size="13"'))
        if note:
            found.append(text(left(2) - 30, y + 16, note, 'font-size="12"'))
    return found


def draw() -> str:
    """The picture as SVG."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" '
            'font-family="sans-serif" font-size="14">',
            f"<style>{STYLE}</style>",
            '<defs><marker id="h" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path class="h" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<rect class="b" width="{WIDE}" height="{HIGH}" rx="8"/>',
            *stages(),
            *row(),
            *family(),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    if "--check" in sys.argv:
        current = PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == draw()
        sys.exit(None if current else "docs/two_stages.svg is old: python docs/draw_stages.py")
    PICTURE.write_text(draw(), encoding="utf-8")
