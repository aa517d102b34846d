"""What the parts of an R-CNN that are fitted after its network learn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..data.sample import Sample
from ..inputs.images import load_image
from ..inputs.proposals import check_proposals
from ..models import RCNN
from ..models.boxing import lacking_proposals
from ..progress import bar
from ..structures import ArrayLike, ImageLike


class Examples(Protocol):
    """A data set, or pairs of an image and its target."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample | tuple[ImageLike, Mapping[str, ArrayLike]]: ...


class CropSample(NamedTuple):
    """A sample, checked, with its picture loaded."""

    number: int
    picture: np.ndarray
    boxes: np.ndarray  # (G, 4)
    labels: np.ndarray  # (G,)
    examples: np.ndarray  # (G,), no crowds
    proposals: np.ndarray  # (P, 4) as boxes


def crop_samples(
    model: RCNN,
    samples: Examples,
    proposals: Sequence[ArrayLike] | Mapping[int, ArrayLike] | None = None,
    progress: bool = False,
    chosen: Sequence[int] | None = None,
) -> Iterator[CropSample]:
    """The samples, all or the ``chosen`` numbers, checked, one after the other."""
    classes = model.num_classes - 1
    steps = range(len(samples)) if chosen is None else chosen
    for i in bar(steps, unit="image", disable=not progress):
        picture, target = samples[i][:2]
        # by default each target's own
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
