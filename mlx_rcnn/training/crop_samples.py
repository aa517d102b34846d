"""What the parts of an R-CNN that are fitted after its network learn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from ..data.sample import Sample
from ..inputs.images import load_image
from ..inputs.proposals import check_proposals
from ..models import RCNN
from ..models.boxing import lacking_proposals
from ..structures import ArrayLike, ImageLike


class Examples(Protocol):
    """A data set, or pairs of an image and its target."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample | tuple[ImageLike, Mapping[str, ArrayLike]]: ...


class CropSample(NamedTuple):
    """A sample: its ``number``, its ``picture``, and what is in it.

    Targets have ``boxes`` (G, 4) and ``labels`` (G,), and some are ``examples`` (G,), no crowds;
    ``proposals`` (P, 4) are as ``boxes``.
    """

    number: int
    picture: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    examples: np.ndarray
    proposals: np.ndarray


def crop_samples(
    model: RCNN,
    samples: Examples,
    proposals: Sequence[ArrayLike] | Mapping[int, ArrayLike] | None = None,
    progress: bool = False,
    chosen: Sequence[int] | None = None,
) -> Iterator[CropSample]:
    """The samples, checked, one after the other.

    Args:
        model: whose classes they have.
        samples: images and targets, as :func:`~mlx_rcnn.training.fit_svms` takes them.
        proposals: (P, 4) of each. Default: each target's own.
        progress: show a bar over the images. Default: ``False``.
        chosen: numbers of those wanted. Default: all.

    Yields:
        Each, its picture loaded.

    Raises:
        ValueError: no proposals, a label out of range, or boxes that cannot be used.
    """
    classes = model.num_classes - 1
    steps = range(len(samples)) if chosen is None else chosen
    for i in tqdm(steps, unit="image", disable=not progress):
        picture, target = samples[i][:2]
        given = target.get("proposals") if proposals is None else proposals[i]
        if given is None:
            raise ValueError(lacking_proposals(model))
        image = load_image(picture)
        boxes, rows = check_proposals(
            [target["boxes"], given],
            [image.shape[:2]] * 2,
            [f"samples[{i}]: boxes", f"samples[{i}]: proposals"],
        )
        labels = np.asarray(target["labels"]).reshape(-1)
        wrong = labels[(labels < 1) | (labels > classes)]
        if len(wrong):
            raise ValueError(f"samples[{i}]: label {wrong[0]}, expected one in 1..{classes}")
        crowd = np.asarray(target.get("iscrowd", np.zeros(len(boxes)))).reshape(-1)
        yield CropSample(i, image, boxes, labels, crowd == 0, rows)
