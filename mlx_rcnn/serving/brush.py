"""Masks as Label Studio's brush holds them: a bit stream of runs of bytes (thi.ng's rle-pack).

After 32 bits of the count of values, 5 of the word size less one and four times 4 of the sizes of
run lengths less one, each run is: a bit, 1 for a repeated value; 2 bits, which size; the length
less one; the value. A mask is RGBA, so that each pixel is four equal values.
"""

from __future__ import annotations

import numpy as np

_SIZES = (3, 4, 8, 16)  # bits of a run's length
_LONGEST = 1 << 16
_OPAQUE = 255


def encode_brush(mask: np.ndarray) -> list[int]:
    """The bytes of a mask (H, W) bool, as Label Studio's JSON has them."""
    values = mask.ravel()
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    starts = np.append(0, ends[:-1])
    bits = [f"{4 * len(values):032b}", "00111", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        value = f"{_OPAQUE if values[start] else 0:08b}"
        left = 4 * (end - start)
        while left:
            length = min(left, _LONGEST)
            which = next(i for i, size in enumerate(_SIZES) if length <= 1 << size)
            bits.append(f"1{which:02b}{length - 1:0{_SIZES[which]}b}{value}")
            left -= length
    text = "".join(bits)
    text += "0" * (8 - len(text) % 8)  # a whole byte where none is needed, as Label Studio has it
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
