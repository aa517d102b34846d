"""Resize images on the host with the arithmetic of torch, Pillow or OpenCV.

A network that was trained behind one of the three is sensitive to the other two: they differ by a
grey level in a fifth of the pixels. Arrays are (H, W, C), channels last, sizes (height, width).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

Array = np.ndarray

# Values handled at once by a pass; float64 temporaries of this many stay in the second-level cache.
_BLOCK = 1 << 16

# torch has a one-pass kernel, with other rounding, for outputs of height + width up to this.
TORCH_ONE_PASS = 128


def resize_torch(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize with half-pixel centres and no antialiasing, in float32.

    The rule of ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``, with the
    output size given or ``recompute_scale_factor=True``. Equal bit for bit to torch's CPU kernels
    where they have fused multiply-adds (x86-64 with AVX2): all of 1.4e8 values compared. Only the
    rows and columns that the output looks at are read and converted, never a whole photo.

    Args:
        image (H, W, C): uint8 or float32.
        size: (height, width) of the result, pixels.

    Returns:
        (height, width, C) float32, in the scale of ``image``: 0..255 from uint8.

    Raises:
        TypeError: ``image`` is neither uint8 nor float32.
        ValueError: ``image`` is not (H, W, C) with H, W and C above 0, or ``size`` not positive.
    """
    height, width = _check(image, size, "resize_torch", (np.uint8, np.float32))
    channels = image.shape[2]
    if (height, width) == image.shape[:2]:
        return image.astype(np.float32)
    y0, y1, v0, v1 = torch_axis(image.shape[0], height)
    x0, x1, w0, w1 = torch_axis(image.shape[1], width)
    if height + width <= TORCH_ONE_PASS:
        return _four_corners(image, (y0, y1, v0, v1), (x0, x1, w0, w1))
    w0, w1 = np.repeat(w0, channels), np.repeat(w1, channels)
    return _two_passes(
        image,
        (y0, y1),
        (x0, x1),
        lambda low, high: _fused(low, w0, high * w1),
        lambda low, high, at: _fused(low, v0[at, None], high * v1[at, None]),
        np.float32,
        np.float32,
    )


def resize_pillow(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of ``PIL.Image.resize(..., Image.BILINEAR)``: antialiased when shrinking.

    The rule of detectron2. Two passes of 22-bit fixed point, uint8 in between, done by Pillow.

    Args:
        image (H, W, C): uint8.
        size: (height, width) of the result, pixels.

    Returns:
        (height, width, C) uint8.

    Raises:
        TypeError: ``image`` is not uint8.
        ValueError: ``image`` is not (H, W, C) with H, W and C above 0, or ``size`` not positive.
    """
    height, width = _check(image, size, "resize_pillow", (np.uint8,))

    def resize(plane: Array) -> Array:
        picture = Image.fromarray(np.ascontiguousarray(plane))
        return np.array(picture.resize((width, height), Image.Resampling.BILINEAR))

    if image.shape[2] == 3:
        return resize(image)
    # Two or four channels would be taken for alpha, and multiplied by it.
    return np.stack([resize(image[..., channel]) for channel in range(image.shape[2])], axis=-1)


def resize_opencv(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of ``cv2.resize(..., interpolation=cv2.INTER_LINEAR)``: no antialiasing.

    The rule of mmdetection. Weights have 11 fractional bits, horizontal sums lose 4 bits and each
    vertical product 16 more before the last rounding; equal to OpenCV 4 and 5 bit for bit. Halving
    both sides exactly gives the mean of each 2x2 block, rounded half up, as OpenCV's own case does.

    Args:
        image (H, W, C): uint8.
        size: (height, width) of the result, pixels.

    Returns:
        (height, width, C) uint8.

    Raises:
        TypeError: ``image`` is not uint8.
        ValueError: ``image`` is not (H, W, C) with H, W and C above 0, or ``size`` not positive.
    """
    height, width = _check(image, size, "resize_opencv", (np.uint8,))
    x, w0, w1 = _opencv_axis(image.shape[1], width)
    # Beyond the left and right borders the border pixel gets the whole weight; beyond the top and
    # bottom it stands in for both rows, at their weights. The two round differently.
    outside = (x < 0) | (x >= image.shape[1] - 1)
    w0[outside], w1[outside] = 2048, 0
    w0, w1 = np.repeat(w0, image.shape[2]), np.repeat(w1, image.shape[2])
    y, v0, v1 = _opencv_axis(image.shape[0], height)

    def vertical(low: Array, high: Array, at: slice) -> Array:
        total: Array = ((low * v0[at, None]) >> 16) + ((high * v1[at, None]) >> 16) + 2
        return total >> 2

    return _two_passes(
        image,
        (_clamp(y, image.shape[0]), _clamp(y + 1, image.shape[0])),
        (_clamp(x, image.shape[1]), _clamp(x + 1, image.shape[1])),
        lambda low, high: (low * w0 + high * w1) >> 4,
        vertical,
        np.int16,  # at most 255 * 2048 / 16 = 32640
        np.uint8,
    )


def torch_axis(
    length: int, size: int, start: int = 0, stop: int | None = None
) -> tuple[Array, Array, Array, Array]:
    """Where torch's bilinear rule samples one axis: low and high pixels int64, weights float32."""
    index = np.arange(start, size if stop is None else stop)
    centres = index.astype(np.float32) + np.float32(0.5)
    scale = np.float32(length) / np.float32(size)
    # Fused in torch: one rounding, of the exact product minus a half. Two move it by 3e-5 pixels.
    source = (scale.astype(np.float64) * centres - 0.5).astype(np.float32)
    source = np.maximum(source, np.float32(0))
    low = np.minimum(source.astype(np.int64), length - 1)
    w_high = np.clip(source - low.astype(np.float32), np.float32(0), np.float32(1))
    return low, np.minimum(low + 1, length - 1), np.float32(1) - w_high, w_high


def _opencv_axis(length: int, size: int) -> tuple[Array, Array, Array]:
    """First source pixel (may be -1 or ``length - 1``) and two 11-bit weights of each output."""
    scale = 1.0 / (size / length)  # OpenCV inverts the inverse; the last bit may differ
    source = ((np.arange(size) + 0.5) * scale - 0.5).astype(np.float32)
    low = np.floor(source)
    fraction = source - low
    weights = np.rint(np.stack([np.float32(1) - fraction, fraction]) * np.float32(2048))
    return low.astype(np.int64), *weights.astype(np.int32)


def _clamp(index: Array, length: int) -> Array:
    inside: Array = np.clip(index, 0, length - 1)
    return inside


def _fused(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of float32 with one rounding, since float64 holds ``a * b`` exactly."""
    total: Array = np.multiply(a, b, dtype=np.float64)
    total += c
    return total.astype(np.float32)


def _four_corners(
    image: Array,
    rows: tuple[Array, Array, Array, Array],
    columns: tuple[Array, Array, Array, Array],
) -> Array:
    """Torch's one-pass kernel: corner weights are products, corners are added 01, 00, 10, 11."""
    (y0, y1, v0, v1), (x0, x1, w0, w1) = rows, columns
    v0, v1, w0, w1 = v0[:, None, None], v1[:, None, None], w0[:, None], w1[:, None]
    top, bottom = image[y0], image[y1]
    total = top[:, x1] * (v0 * w1)
    total = _fused(top[:, x0], v0 * w0, total)
    total = _fused(bottom[:, x0], v1 * w0, total)
    return _fused(bottom[:, x1], v1 * w1, total)


def _two_passes(
    image: Array,
    rows: tuple[Array, Array],
    columns: tuple[Array, Array],
    horizontal: Callable[[Array, Array], Array],
    vertical: Callable[[Array, Array, slice], Array],
    between: type[np.generic],
    result: type[np.generic],
) -> Array:
    """Blend columns of the source rows in use, then rows, a block that fits the cache at a time."""
    channels = image.shape[2]
    height, length = rows[0].size, columns[0].size * channels
    used, index = np.unique(np.concatenate(rows), return_inverse=True)
    low, high = index.reshape(2, height)
    # Flat (x, channel) indices: NumPy gathers single values much faster than pixels of 3 bytes.
    left, right = ((x[:, None] * channels + np.arange(channels)).ravel() for x in columns)
    step = max(1, _BLOCK // length)

    middle = np.empty((used.size, length), between)
    for start in range(0, used.size, step):
        at = slice(start, start + step)
        source = image[used[at]].reshape(-1, image.shape[1] * channels)
        middle[at] = horizontal(source.take(left, axis=1), source.take(right, axis=1))

    out = np.empty((height, length), result)
    for start in range(0, height, step):
        at = slice(start, start + step)
        out[at] = vertical(middle[low[at]], middle[high[at]], at)
    return out.reshape(height, -1, channels)


def _check(
    image: Array, size: tuple[int, int], name: str, dtypes: tuple[type[np.generic], ...]
) -> tuple[int, int]:
    if not isinstance(image, np.ndarray) or image.dtype not in dtypes:
        wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        got = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"{name}: expected a NumPy array of {wanted}, got {got}")
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"{name}: expected an image (H, W, C) of some size, got {image.shape}")
    height, width = (int(side) for side in size)
    if height < 1 or width < 1:
        raise ValueError(f"{name}: expected a size (height, width) of at least 1, got {size}")
    return height, width
