"""Crops of an image, warped to one size: what R-CNN classifies (Girshick et al., 2014)."""

from __future__ import annotations

import mlx.core as mx


def warp_crops(pixels: mx.array, rois: mx.array, size: int, context: int) -> mx.array:
    """(R, size, size, C) of (R, 5) RoIs with ``context`` pixels around (R-CNN, appendix A)."""
    height, width = pixels.shape[1:3]  # (N, H, W, C) normalised, zeros where they are padded
    rois = mx.stop_gradient(rois)  # (batch index, x1, y1, x2, y2), pixels of the images
    centre = 0.5 * (rois[:, 1:3] + rois[:, 3:5])
    # Enlarged about its centre, so that after the warp the box has ``context`` pixels around it.
    half = 0.5 * (rois[:, 3:5] - rois[:, 1:3]) * (size / (size - 2 * context))
    low, high = centre - half, centre + half
    # A pixel of the crop is one bilinear sample, at its centre, of the image as it lies in an
    # endless plane of zeros, the mean after normalisation. As in the paper's code nothing is
    # smoothed where an image shrinks; that code rounds boxes to whole pixels, and this does not.
    columns, across = _samples(low[:, 0], high[:, 0], size, width)  # (2, R, size)
    rows, down = _samples(low[:, 1], high[:, 1], size, height)
    # Four gathers cost the same whatever the image's size; matrices around it do not, and lose even
    # on one of 375 x 500.
    flat = pixels.reshape(-1, pixels.shape[-1])
    first = rois[:, 0].astype(mx.int32) * (height * width)
    rows = first[None, :, None] + rows * width
    lines = []
    for row in rows:
        index = row[:, :, None], columns[:, :, None, :]  # (R, size, 1) and (2, R, 1, size)
        left, right = (flat[index[0] + column] for column in index[1])
        lines.append(left * across[0][:, None, :, None] + right * across[1][:, None, :, None])
    crops = lines[0] * down[0][:, :, None, None] + lines[1] * down[1][:, :, None, None]
    return crops.astype(pixels.dtype)


def _samples(low: mx.array, high: mx.array, size: int, length: int) -> tuple[mx.array, mx.array]:
    """The two pixels each sample of an axis lies between, (2, R, size), and their weights."""
    place = low[:, None] + (mx.arange(size) + 0.5) * ((high - low) / size)[:, None] - 0.5
    before = mx.floor(mx.clip(place, -2, length))  # far away all are zeros, and integers overflow
    fraction = place - before
    index = mx.stack([before, before + 1])
    weight = mx.stack([1 - fraction, fraction])
    there = (index >= 0) & (index < length)
    index = mx.clip(index, 0, length - 1).astype(mx.int32)
    return index, mx.where(there, weight, 0.0)
