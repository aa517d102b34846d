"""Run a model over a dataset and keep what every metric needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..config.categories import BACKGROUND
from ..data.annotations import coco_annotations
from ..data.protocols import Dataset
from ..data.sample import Target
from ..inputs.images import ImageError
from ..memory import bounded_cache
from ..progress import bar
from ..structures import Entry
from .batches import Batch, LeftOut, Predicts, predictor
from .table import Scores

OBJECTS = (BACKGROUND, "object")


@dataclass
class Collected:
    """Detections and ground truth of a dataset, in COCO's terms.

    ``image_id`` counts images from 1 and ``category_id`` is the label: evaluators want integers.
    Boxes and scores are rounded as in a results file, so that the file gives the same metrics.

    Args:
        class_names: by label.
        images: ``id``, ``height`` and ``width`` of each.
        truth: annotations, ``id`` counting from 1.
        found: detections.
        ids: the dataset's own id of each image.
        masks: whether every image's detections and ground truth had masks.
        keypoints: how many an object has, ``None`` unless every image's detections and ground truth
            had them.
        seconds: spent in ``predict``.
        unreadable: what was wrong with each image that was left out.
    """

    class_names: tuple[str, ...]
    images: list[Entry] = field(default_factory=list)
    truth: list[Entry] = field(default_factory=list)
    found: list[Entry] = field(default_factory=list)
    ids: list[int | str] = field(default_factory=list)
    masks: bool = True
    keypoints: int | None = None
    seconds: float = 0.0
    unreadable: list[str] = field(default_factory=list)


def collect(
    model: Predicts,
    dataset: Dataset,
    *,
    batch_size: int = 1,
    score_thresh: float | Sequence[float] = 0.05,
    progress: bool = True,
    max_unreadable: float = 0.1,
    augment: object = None,
) -> Collected:
    """Predict every image of a dataset.

    Args:
        model: with ``predict(images, score_thresh=...)``, a list of dicts (see the models); one
            that ``needs_proposals`` is given those of the samples' targets, one that
            ``needs_masks`` is asked for ``masks="raw"``.
        dataset: with ``len``, indexing that gives samples, and ``class_names``; its method
            ``ground_truth``, if it has one, gives the annotations, else the samples do.
        batch_size: images predicted at once. Default: ``1``.
        score_thresh: detections that score less are left out; one number, or one a class.
            Default: ``0.05``.
        progress: show a bar on standard error. Default: ``True``.
        max_unreadable: share of images, rounded up, that may be unreadable: they are named in a
            warning and left out. Default: ``0.1``.
        augment: a :class:`~mlx_rcnn.TestTimeAugment` for ``predict``. Default: ``None``.

    Returns:
        Detections and ground truth; masks are kept as RLE. To a model that finds objects of any
        class all are of one.

    Raises:
        ValueError: no images, a ``batch_size`` below 1, or detections and ground truth of unequal
            numbers of keypoints.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")
    if len(dataset) == 0:
        raise ValueError("the dataset has no images")
    predict = predictor(model, dataset, score_thresh, augment)
    left_out = LeftOut(len(dataset), max_unreadable)
    batches = []
    shown = bar(total=len(dataset), unit="image", desc="evaluate", disable=not progress)
    with shown, bounded_cache():
        for start in range(0, len(dataset), batch_size):
            chosen = range(start, min(start + batch_size, len(dataset)))
            batches.append(predict(chosen))
            left_out.add(batches[-1])
            shown.update(len(chosen))
    return assemble(batches, dataset, getattr(model, "finds_objects", False))


def assemble(batches: Iterable[Batch], dataset: Dataset, objects: bool = False) -> Collected:
    """Detections and ground truth of batches, in the images' order; ImageError without images."""
    out = Collected(tuple(dataset.class_names))
    for batch in batches:
        out.unreadable += batch["problems"]
        out.seconds += batch["seconds"]
        for image in batch["images"]:
            number = add_truth(
                out, dataset, image["place"], image["size"], image["id"], image.get("target")
            )
            for entry in image["found"]:
                entry["image_id"] = number
            out.found += image["found"]  # not copied
            out.masks &= image["masks"]
            points = image["keypoints"]
            out.keypoints = points if number == 1 or out.keypoints == points else None
    if not out.images:
        raise ImageError(f"no image can be read; the last: {out.unreadable[-1]}")
    if objects:
        out.class_names = OBJECTS  # all objects are of one class
        out.truth = [{**entry, "category_id": 1} for entry in out.truth]
    return out


def add_truth(
    out: Collected,
    dataset: Dataset,
    i: int,
    size: tuple[int, int],
    own_id: int | str,
    target: Target | None = None,
) -> int:
    """Add an image of (height, width) and its ground truth, and give its number, from 1."""
    height, width = size
    number = len(out.images) + 1
    out.images.append({"id": number, "height": height, "width": width})
    out.ids.append(own_id)
    if hasattr(dataset, "ground_truth"):
        entries: list[Entry] = dataset.ground_truth(i)
    else:
        assert target is not None
        entries = coco_annotations(target)  # a dataset without that method
    for entry in entries:
        out.truth.append({**entry, "id": len(out.truth) + 1, "image_id": number})
    return number


def results_entries(collected: Collected, category_ids: tuple[int, ...] | None) -> list[Entry]:
    """Detections as a COCO results file holds them.

    Args:
        collected: of :func:`collect`.
        category_ids: the dataset's own id of labels 1..C-1, -1 for classes it lacks, whose
            detections are left out; ``None`` keeps the labels.

    Returns:
        Entries with the dataset's own image and category ids.
    """
    entries = []
    for entry in collected.found:
        label = entry["category_id"]
        own = label if category_ids is None else category_ids[label - 1]
        if own >= 0:
            image_id = collected.ids[entry["image_id"] - 1]
            entries.append({**entry, "image_id": image_id, "category_id": own})
    return entries


def images_per_second(collected: Collected) -> float:
    """Images that ``predict`` did in a second, without loading and scoring; NaN if none."""
    return len(collected.images) / collected.seconds if collected.seconds else float("nan")


def summary(collected: Collected) -> Scores:
    """What every metric's result carries beside the metric; ``unreadable`` images were left out."""
    return {
        "class_names": list(collected.class_names),
        "images": len(collected.images),
        "unreadable": len(collected.unreadable),
        "objects": sum(count_objects(collected).values()),
        "detections": len(collected.found),
        "images_per_second": images_per_second(collected),
    }


def count_objects(collected: Collected) -> dict[int, int]:
    """Objects of each label in the ground truth, crowds left out; labels without any not listed."""
    counts: dict[int, int] = {}
    for entry in collected.truth:
        if not entry["iscrowd"]:
            counts[entry["category_id"]] = counts.get(entry["category_id"], 0) + 1
    return counts
