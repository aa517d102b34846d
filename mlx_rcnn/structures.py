"""What the stages hand to each other: fixed-shape arrays with a ``valid`` mask.

Shape glossary, used throughout the package:

    N  images in a batch            L  feature levels, finest first
    H, W  network input size        h, w  a feature map's size
    C  classes with background      A  anchors a cell
    P  proposals an image           D  detections an image
    R  RoIs in one flat list        M  targets an image, padded
    K  keypoints an object

Boxes are xyxy, float32, pixels of the padded network input, origin at the top left corner of the
top left pixel. Rows with ``valid=False`` hold anything and mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    import os

    import numpy.typing as npt
    from PIL.Image import Image

BUCKET = 8  # targets are padded to a multiple, so that shapes repeat

ArrayLike: TypeAlias = "npt.ArrayLike | mx.array"
ImageLike: TypeAlias = "str | os.PathLike[str] | Image | np.ndarray | mx.array"
Images: TypeAlias = "ImageLike | Sequence[ImageLike] | Prepared"
"""What ``predict`` takes: one, several, a batch in one array, or what ``prepare`` made of them."""
GivenProposals: TypeAlias = "ArrayLike | Sequence[ArrayLike]"
"""(P, 4) of each image; of one image the array alone will do."""
GivenTargets: TypeAlias = Sequence[Mapping[str, ArrayLike]]
"""One dict an image, in torchvision's form."""


Entry: TypeAlias = dict[str, Any]
"""An annotation or result in COCO's terms; what else a file says of an object stays in it."""
Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | float | bool | None"


class Batch(NamedTuple):
    """Images ready for the network."""

    pixels: mx.array  # (N, H, W, 3), normalised and padded with zeros right and below
    sizes: np.ndarray  # (N, 2): (height, width) of the resized, unpadded images
    original_sizes: np.ndarray  # (N, 2): (height, width) of the images given


@dataclass(frozen=True)
class Prepared:
    """Images that the host has made ready for a model, whose ``predict`` takes them."""

    given: ImageLike | Sequence[ImageLike]  # as ``prepare`` got them
    pictures: list[np.ndarray]  # each as (H, W, 3)
    pixels: np.ndarray  # this and the following are those of a batch, all of NumPy
    sizes: np.ndarray
    original_sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The pictures: whoever wraps ``predict`` may look at them as at a list of images."""
        return iter(self.pictures)

    def batch(self) -> Batch:
        """The same on MLX's side."""
        return Batch(mx.array(self.pixels), self.sizes, self.original_sizes)


class Targets(NamedTuple):
    """What is to be found, padded to M an image (at least 1)."""

    boxes: mx.array  # (N, M, 4)
    labels: mx.array  # (N, M) int32
    valid: mx.array  # (N, M)
    masks: mx.array | None  # (N, M, H, W) uint8 0 or 1 over the padded network input
    # (N, M, K, 3) of x, y and a visibility, 0 where there is nothing to learn
    keypoints: mx.array | None = None


class Proposals(NamedTuple):
    """What may be objects, P an image."""

    boxes: mx.array  # (N, P, 4)
    scores: mx.array  # (N, P) in [0, 1], falling
    valid: mx.array  # (N, P)
    exact: mx.array  # () bool: the non-maximum suppression behind them has reached its fixed point


class Detections(NamedTuple):
    """What is found, D an image."""

    boxes: mx.array  # (N, D, 4)
    scores: mx.array  # (N, D), falling
    labels: mx.array  # (N, D) in 1..C-1
    valid: mx.array  # (N, D)
    # () bool: as in :class:`Proposals`, and no candidate was left out that could matter
    exact: mx.array
