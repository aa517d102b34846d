"""Non-maximum suppression in two launches, exact, without asking the host.

Shapes: B lists of n boxes, each sorted by falling score.
"""

from __future__ import annotations

import functools

import mlx.core as mx

from . import nms_source
from .dialects import Dialect
from .launch import Kernel, groups, launch, rows

# Bytes of bits that may be held at once; 20,000 boxes have 50 MB.
_MOST_BYTES = 512 << 20
_THREADS = 256  # that sweep through a list together


def suppressible(lists: int, count: int) -> bool:
    """Whether the kernels can do B lists of n: one box at least, so few that their bits fit."""
    words = _words(count)
    fits = 4 * lists * count * words <= _MOST_BYTES and words <= nms_source.MOST_WORDS
    return fits and lists > 0 and count > 0


def suppress(
    boxes: mx.array, valid: mx.array, limit: float, labels: mx.array | None, dialect: Dialect
) -> mx.array:
    """(B, n) bool: the valid boxes (B, n, 4) that no better one that stays overlaps too much."""
    lists, count = valid.shape
    words = _words(count)
    geometry = mx.array([lists, count, words], dtype=mx.int32)
    # a box goes when its IoU is greater than the limit as a float32
    given = [boxes, valid, mx.array([limit], dtype=mx.float32)]
    # only boxes of equal label end each other
    given += [geometry] if labels is None else [labels, geometry]
    shape = (lists, count, words)
    place = rows(words, lists * count)
    find = _overlaps(labels is not None)
    [hits] = launch(find, dialect, given, [shape], mx.uint32, (), place)
    place = groups(_THREADS, lists)
    inputs = [hits, valid, geometry]
    [keep] = launch(_SWEEP, dialect, inputs, [(lists, count)], mx.bool_, (), place)
    return keep


def _words(count: int) -> int:
    """Words that hold a bit a box."""
    return -(-count // nms_source.WORD)


@functools.cache
def _overlaps(labelled: bool) -> Kernel:
    """The kernel that writes the bits."""
    return Kernel(
        "nms_overlaps_of_labels" if labelled else "nms_overlaps",
        ("boxes", "valid", "limit", *(("labels",) if labelled else ()), "geometry"),
        ("hits",),
        nms_source.FUNCTIONS,
        nms_source.overlaps(labelled),
    )


_SWEEP = Kernel(
    "nms_sweep",
    ("hits", "valid", "geometry"),
    ("keep",),
    nms_source.FUNCTIONS,
    nms_source.SWEEP,
    grouped=True,
)
