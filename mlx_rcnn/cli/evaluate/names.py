"""What the model and the data call their classes and keypoints, for ``evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...config.categories import NEVER_ANNOTATED
from ...data import DetectionDataset
from ...messages import listing
from ..errors import CommandError
from ..said import say_warning

if TYPE_CHECKING:
    from ...models import Detector


def with_classes_of(model: Detector, dataset: DetectionDataset) -> DetectionDataset:
    """The data with the labels of a model; one without names has, with a warning, the data's."""
    if model.class_names is None:
        have, want = model.config.num_classes - 1, len(dataset.class_names) - 1
        if have != want:
            raise CommandError(
                f"the model has {have} classes without names, but the data has {want}: "
                f"{', '.join(dataset.class_names[1:])}; give the model's names with --classes"
            )
        say_warning(
            "the model has no class names: its labels are taken in the order of the data, "
            f"{', '.join(dataset.class_names[1:])}; --classes gives the model's names"
        )
        return dataset
    try:
        return dataset.with_classes(model.class_names)
    except ValueError as error:
        raise CommandError(f"{error}; --classes gives the model's classes other names") from error


def difference(own: tuple[str, ...] | None, data: tuple[str, ...]) -> list[str]:
    """One line, or none, of names by label that are not the same in the same order."""
    if own is None or own == data:
        return []
    names = [name for name in own[1:] if name != NEVER_ANNOTATED]
    shared = [name for name in data[1:] if name in names]
    lacking = [name for name in names if name not in shared]
    more = [name for name in data[1:] if name not in names]
    text = f"classes are matched by name: {len(shared)} of the model's {len(names)} are in the data"
    if lacking:
        text += f", which lacks {listing(lacking, 4)}"
    if more:
        text += f"; without objects, and unknown to the model: {listing(more, 4)}"
    if [own.index(name) for name in shared] != [data.index(name) for name in shared]:
        text += "; their numbers differ"
    return [text]


def check_keypoints(model: Detector, dataset: DetectionDataset) -> None:
    """Refuse keypoints of another number, and say if those that are compared have other names."""
    names, own = dataset.keypoint_names, model.keypoint_names
    if names is None:
        say_warning(
            "the data has no keypoints that all its classes share: boxes alone are measured"
        )
        return
    count = model.roi_heads.keypoint_predictor.num_keypoints
    if len(names) != count:
        raise CommandError(
            f"the model finds {count} keypoints, but the data has {len(names)}: {', '.join(names)}"
        )
    if own is not None and own != names:
        at = next(i for i, pair in enumerate(zip(own, names, strict=True)) if len(set(pair)) > 1)
        say_warning(
            f"keypoint {at + 1} is {own[at]} to the model and {names[at]} in the data: they are "
            "compared by their place"
        )
