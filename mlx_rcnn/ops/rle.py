"""Run-length encoding of binary masks, as COCO's annotations and result files hold them.

A mask is read down its columns and stored as run lengths, zeros first. In the compressed string a
character holds 5 bits, low ones first, and a bit for "more follow", offset by 48 into ASCII; the
top bit of a number is its sign. From the fourth on, a run is stored as its difference to the run
two before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray

# 60 bits hold the area of any image; a longer group is damage, and would overflow int64.
_MAX_CHARACTERS = 12


def encode_rle(mask: Array) -> dict[str, list[int] | str]:
    """Encode a binary mask as COCO's compressed RLE, equal to ``pycocotools.mask.encode``.

    Args:
        mask (H, W): bool, or numbers of which every non-zero one is set.

    Returns:
        ``{"size": [H, W], "counts": str}``, ready for JSON (pycocotools gives ``counts`` in bytes).

    Raises:
        ValueError: ``mask`` is not (H, W).
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask: expected shape (H, W), got {mask.shape}")
    return {"size": list(mask.shape), "counts": _compress(_run_lengths(mask.astype(bool)))}


def encode_rle_part(
    part: Array, corner: tuple[int, int], image_size: tuple[int, int]
) -> dict[str, Any]:
    """:func:`encode_rle` of an image's mask, given a part (h, w) of it with zeros around."""
    # the image's row and column of its first pixel
    (top, left), (height, width) = corner, image_size
    edges = np.diff(np.pad(np.asarray(part, bool), ((1, 1), (0, 0))).astype(np.int8), axis=0)
    column, start = np.nonzero(edges.T == 1)
    end = np.nonzero(edges.T == -1)[1]
    # A column's run that ends at its foot goes on at the head of the next.
    first, last = ((column + left) * height + top + row for row in (start, end))
    apart = np.ones(len(first) + 1, bool)
    apart[1:-1] = first[1:] != last[:-1]
    bounds = np.stack([first[apart[:-1]], last[apart[1:]]], axis=1).ravel()
    whole = height * width
    bounds = np.concatenate([[0], bounds, [whole] if not len(bounds) or bounds[-1] < whole else []])
    return {"size": [height, width], "counts": _compress(np.diff(bounds).astype(np.int64))}


def decode_rle(rle: Mapping[str, Any]) -> Array:
    """Decode COCO's RLE into a binary mask, as ``pycocotools.mask.decode``.

    Args:
        rle: ``{"size": [H, W], "counts": ...}`` where ``counts`` is a compressed string (str or
            bytes) or an uncompressed list of run lengths, zeros first.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: a key is missing, the string is damaged, a run is negative, or the runs do not
            add up to H * W.
        TypeError: ``counts`` is neither a string nor a list of integers.
    """
    if not isinstance(rle, Mapping) or not {"size", "counts"} <= rle.keys():
        got = sorted(rle) if isinstance(rle, Mapping) else type(rle).__name__
        raise ValueError(f"rle: expected a dict with 'size' and 'counts', got {got}")
    size, counts = rle["size"], rle["counts"]
    if len(size) != 2 or any(not isinstance(n, int | np.integer) or n < 0 for n in size):
        raise ValueError(f"size: expected [H, W], two integers not below 0, got {size}")
    height, width = (int(side) for side in size)
    runs = _decompress(counts) if isinstance(counts, str | bytes) else _checked_runs(counts)
    if runs.size and runs.min() < 0:
        raise ValueError(f"counts: expected runs not below 0, got {runs.min()}")
    # A float sum cannot overflow, and is exact as long as it is near any image's area.
    if runs.sum(dtype=np.float64) != height * width:
        raise ValueError(
            f"counts: expected runs that add up to {height} * {width} = {height * width}, "
            f"got {runs.sum(dtype=np.float64):.0f}"
        )
    values = np.zeros(runs.size, dtype=bool)
    values[1::2] = True
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _run_lengths(mask: Array) -> Array:
    """Runs of (H, W) bool read down the columns, zeros first (an empty run if the first is set)."""
    height, width = mask.shape
    if mask.size == 0:
        return np.zeros(1, np.int64)
    # Changes within columns, found along rows: transposing the mask would cost ten times more.
    change = np.flatnonzero(mask[1:] != mask[:-1])
    row, column = np.divmod(change, width)
    # Changes from the foot of a column to the head of the next.
    wrap = np.flatnonzero(mask[0, 1:] != mask[-1, :-1]) + 1
    starts = np.sort(np.concatenate([column * height + row + 1, wrap * height]))
    first = [0] if mask[0, 0] else []
    return np.diff(np.concatenate([[0], first, starts, [mask.size]]).astype(np.int64))


def _compress(runs: Array) -> str:
    values = runs.copy()
    values[3:] -= runs[1:-2]
    characters = []
    alive = np.ones(values.size, dtype=bool)
    while alive.any():
        bits = values & 31
        values >>= 5
        # The sign bit of the last five bits has to agree with what is left, 0 or -1.
        more = values != np.where(bits & 16, -1, 0)
        characters.append(np.where(alive, bits + 32 * more + 48, 0))
        alive &= more
    table = np.stack(characters, axis=1).astype(np.uint8)
    return table[table > 0].tobytes().decode("ascii")


def _decompress(counts: str | bytes) -> Array:
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError as error:
        raise ValueError(f"counts: expected ASCII, got {counts[error.start]!r}") from error
    characters = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if characters.size == 0:
        return np.zeros(0, np.int64)
    if characters.min() < 0 or characters.max() > 63:
        wrong = raw[int(np.argmax((characters < 0) | (characters > 63)))]
        raise ValueError(f"counts: expected characters from '0' to 'o', got {chr(wrong)!r}")
    last = np.flatnonzero(characters < 32)
    if last.size == 0 or last[-1] != characters.size - 1:
        raise ValueError("counts: the string ends within a number")
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > _MAX_CHARACTERS:
        raise ValueError(f"counts: a number of {length.max()} characters is too long")
    shift = 5 * (np.arange(characters.size) - np.repeat(first, length))
    values = np.add.reduceat((characters & 31) << shift, first)
    values -= np.where(characters[last] & 16, np.int64(1) << (5 * length), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _checked_runs(counts: object) -> Array:
    runs = np.asarray(counts)
    if runs.ndim != 1 or (runs.size and runs.dtype.kind not in "iu"):
        raise TypeError(
            f"counts: expected a string or a list of integers, got {type(counts).__name__} "
            f"of shape {runs.shape} and type {runs.dtype}"
        )
    return runs.astype(np.int64)
