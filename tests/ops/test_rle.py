import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.ops.rle import decode_rle, encode_rle

# Runs read down the columns, zeros first, and their strings (equal to pycocotools').
BY_HAND = [
    ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], [9], "9"),  # 9 + 48 is "9"
    ([[1, 1, 1], [1, 1, 1], [1, 1, 1]], [0, 9], "09"),
    ([[0, 1], [1, 1]], [1, 3], "13"),
    # From the fourth on, the difference to the run two before: 2 - 4 = -2, whose 5 bits are 30
    ([[0] * 3 + [1] * 2 + [0, 1], [0] * 2 + [1] * 2 + [0] * 2 + [1]], [5, 4, 3, 2], "543N"),
    # 16 has the sign bit of its 5 bits set, so it takes a second character: 16 + 32 + 48, 0 + 48
    ([[0] * 4] * 4, [16], "`0"),
    # 31 + 32 + 48 is "o", 0 + 48; then 1
    ([[0] * 8] * 3 + [[0] * 7 + [1]], [31, 1], "o01"),
    # 1000 = 8 + 32 * 31: 8 + 32 + 48 is "X", 31 + 32 + 48 is "o", then the sign; 24 likewise
    ([[int(x == 31 and y >= 8) for x in range(32)] for y in range(32)], [1000, 24], "Xo0h0"),
]


def slow_runs(mask):
    """Run lengths from the definition, a pixel at a time."""
    runs, value = [0], 0
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if int(mask[row, column]) != value:
                runs.append(0)
                value = 1 - value
            runs[-1] += 1
    return runs


def slow_string(runs):
    """A character at a time: 5 bits, low ones first, until the rest is all sign."""
    string = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            if value == (-1 if bits & 16 else 0):
                string += chr(bits + 48)
                break
            string += chr(bits + 32 + 48)
    return string


@pytest.mark.parametrize(("mask", "runs", "string"), BY_HAND)
def test_by_hand(mask, runs, string):
    mask = np.array(mask, bool)
    size = list(mask.shape)
    assert slow_runs(mask) == runs and slow_string(runs) == string
    assert encode_rle(mask) == {"size": size, "counts": string}
    for counts in (string, string.encode(), runs, tuple(runs), np.array(runs)):
        result = decode_rle({"size": size, "counts": counts})
        assert result.dtype == bool and result.flags.c_contiguous
        np.testing.assert_array_equal(result, mask)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(0, 999),
    st.sampled_from([0, 0.02, 0.5, 0.98, 1]),
)
def test_oracle(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    rle = encode_rle(mask)
    assert rle == {"size": [height, width], "counts": slow_string(slow_runs(mask))}
    np.testing.assert_array_equal(decode_rle(rle), mask)
    runs = slow_runs(mask)
    np.testing.assert_array_equal(decode_rle({"size": (height, width), "counts": runs}), mask)


def test_pycocotools_golden():
    golden = np.load(Path(__file__).parents[1] / "goldens" / "masks.npz")
    height, width = (int(side) for side in golden["image_size"])
    masks = np.unpackbits(golden["pasted_packed"], axis=-1, count=width).astype(bool)
    for mask, counts in zip(masks, json.loads(str(golden["counts"])), strict=True):
        assert encode_rle(mask) == {"size": [height, width], "counts": counts}
        np.testing.assert_array_equal(decode_rle({"size": [height, width], "counts": counts}), mask)


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (700, 500), (0, 5), (5, 0)])
def test_shapes(shape):
    rows, columns = np.indices(shape)
    mask = (rows - shape[0] / 2) ** 2 + (columns - shape[1] / 2) ** 2 < 200**2
    rle = encode_rle(mask)
    assert json.loads(json.dumps(rle)) == rle
    np.testing.assert_array_equal(decode_rle(rle), mask)


def test_kinds_of_mask():
    mask = np.random.default_rng(0).random((9, 7)) < 0.5
    expected = encode_rle(mask)
    for other in (mask.astype(np.uint8) * 255, np.asfortranarray(mask), mask.astype(float)):
        assert encode_rle(other) == expected
    assert encode_rle(mask[::-1].T) == encode_rle(mask[::-1].T.copy())


@pytest.mark.parametrize("shape", [(9,), (1, 3, 3)])
def test_masks_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected shape \(H, W\)"):
        encode_rle(np.zeros(shape, bool))


@pytest.mark.parametrize(
    ("rle", "error", "message"),
    [
        ([1, 2], ValueError, "got list"),
        ({"counts": "9"}, ValueError, r"got \['counts'\]"),
        ({"size": [3], "counts": "9"}, ValueError, "size: expected"),
        ({"size": [-3, -3], "counts": "9"}, ValueError, "size: expected"),
        ({"size": [3.0, 3.0], "counts": "9"}, ValueError, "size: expected"),
        ({"size": [3, 3], "counts": "8"}, ValueError, r"3 \* 3 = 9, got 8"),
        ({"size": [3, 3], "counts": ""}, ValueError, "got 0"),
        ({"size": [3, 3], "counts": []}, ValueError, "got 0"),
        ({"size": [3, 3], "counts": "9 "}, ValueError, "got ' '"),
        ({"size": [3, 3], "counts": "9p"}, ValueError, "got 'p'"),
        ({"size": [3, 3], "counts": "9\u00e9"}, ValueError, "expected ASCII"),
        ({"size": [3, 3], "counts": "9`"}, ValueError, "ends within a number"),
        ({"size": [3, 3], "counts": "o" * 20 + "0"}, ValueError, "too long"),
        ({"size": [3, 3], "counts": "O:"}, ValueError, "not below 0, got -1"),
        ({"size": [3, 3], "counts": [10, -1]}, ValueError, "not below 0, got -1"),
        ({"size": [3, 3], "counts": [2**62, 2**62, 2**62, 2**62, 9]}, ValueError, "add up"),
        ({"size": [3, 3], "counts": [9.0]}, TypeError, "list of integers"),
        ({"size": [3, 3], "counts": [[0, 0, 3, 3]]}, TypeError, "list of integers"),
        ({"size": [3, 3], "counts": 9}, TypeError, "list of integers"),
        ({"size": [3, 3], "counts": None}, TypeError, "list of integers"),
    ],
)
def test_malformed(rle, error, message):
    with pytest.raises(error, match=message):
        decode_rle(rle)
