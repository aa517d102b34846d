"""Detections of an image too large to draw on, moved to a reduced picture of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..inputs.pixels import AnyArray
from ..inputs.windows import overview
from ..ops.masks import paste_masks


class Pasted:
    """Raw masks (D, M, M) as the (D, H, W) bool that they are pasted, each made when asked for."""

    def __init__(self, masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> None:
        # (D, 4) xyxy, pixels of the picture, whose size is (height, width)
        self._masks, self._boxes, self._size = masks, boxes, size
        self.shape = (len(masks), *size)

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W) bool."""
        one = slice(index, index + 1)
        pasted: np.ndarray = np.asarray(
            paste_masks(self._masks[one], self._boxes[one], self._size)
        )[0]
        return pasted


def reduced(
    image: AnyArray, prediction: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A picture (h, w, 3) of an image read by windows, and what was found, in its pixels."""
    picture, scale = overview(image)
    down, across = scale.tolist()
    found = {name: np.asarray(array) for name, array in prediction.items()}
    boxes = found["boxes"].reshape(-1, 4) / [across, down, across, down]
    found["boxes"] = boxes
    if "keypoints" in found:
        found["keypoints"] = found["keypoints"] / [across, down, 1]
    masks = found.pop("masks", None)  # raw masks become :class:`Pasted`; full ones are left out
    if masks is not None and masks.dtype != bool:
        found["masks"] = Pasted(masks, boxes, picture.shape[:2])  # type: ignore[assignment]
    elif masks is not None and masks.shape[1:] == picture.shape[:2]:
        found["masks"] = masks
    return picture, found
