"""Which detections are right at IoU 0.5, and what is wrong with the others, as TIDE divides it.

Bolya et al., 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors", and equal to
its code, tidecv 1.0.1. D are the detections and G the objects of all images, crowds left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..structures import Entry
from .coco import load_evaluator, scored_labels
from .collect import Collected
from .entries import entries_of

KINDS = ("class", "location", "both", "duplicate", "background", "missed")
"""What can be wrong, by number; the last is of objects, the others of detections."""
CLASS, LOCATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
RIGHT = -1
IOU, BACKGROUND_IOU = 0.5, 0.1
MOST = 100
"""Detections of an image that count: the best."""


@dataclass(frozen=True)
class Matches:
    """Detections (D,) and objects (G,) of all images, image by image, detections best first."""

    labels: np.ndarray
    scores: np.ndarray
    images: np.ndarray  # they count from 1
    rows: np.ndarray  # where it stands in ``Collected.found``
    kinds: np.ndarray  # number of ``KINDS``, -1 if it is right
    passed_over: np.ndarray  # bool, not right, but within a crowd of its class, which costs nothing
    # the object it is right about, or too far from, or takes for another class, or finds again;
    # else -1
    objects: np.ndarray
    object_labels: np.ndarray
    object_images: np.ndarray
    object_rows: np.ndarray  # where it stands in ``Collected.truth``
    # of each image that has both, by its number: (detections, objects) IoU
    overlaps: dict[int, np.ndarray]

    def missed(self) -> np.ndarray:
        """(G,) bool: neither found, nor nearly: no other error is about it."""
        near = np.isin(self.kinds, (RIGHT, CLASS, LOCATION))
        missed = np.ones(len(self.object_labels), bool)
        missed[self.objects[near]] = False
        return missed

    def found(self, score_thresh: float = 0.0) -> np.ndarray:
        """(G,) bool: whether a detection that scores at least this much is right about it."""
        found = np.zeros(len(self.object_labels), bool)
        found[self.objects[(self.kinds == RIGHT) & (self.scores >= score_thresh)]] = True
        return found


class _Image(NamedTuple):
    """Rows in ``Collected`` of one image: detections best first, objects, and crowds."""

    number: int
    found: list[int]
    objects: list[int]
    crowds: list[int]


def match(collected: Collected, kind: str) -> Matches:
    """Match detections to objects, and say of each one that is not right what is wrong."""
    load_evaluator()
    known = set(scored_labels(collected))
    truth, found = entries_of(collected, kind)
    # Entries are filtered, never moved: their numbers are those of `collected`.
    rows = [i for i, e in enumerate(collected.found) if e["category_id"] in known]
    objects = [
        i
        for i, e in enumerate(collected.truth)
        if e["category_id"] in known and (kind == "bbox" or "segmentation" in e)
    ]
    own = {e["id"]: e for e in truth}
    shapes = _Shapes(collected, kind)
    parts: list[tuple[np.ndarray, ...]] = []
    overlaps, first = {}, 0
    for image in _by_image(collected, rows, objects):
        dets = [found[i] for i in image.found]
        gts = [own[collected.truth[i]["id"]] for i in image.objects]
        crowds = [own[collected.truth[i]["id"]] for i in image.crowds]
        iou = shapes.overlaps(dets, gts, 0)
        # Detections, best first, take the object of their class that they overlap most and that is
        # free, if the IoU is 0.5 or more.
        took, kinds, about = _kinds(_labels(dets), _labels(gts), iou)
        within = shapes.overlaps(dets, crowds, 1) > IOU
        within &= _labels(dets)[:, None] == _labels(crowds)
        passed = within.any(1) & ~took
        about = np.where(about >= 0, about + first, -1)
        first += len(gts)
        if iou.size:
            overlaps[image.number] = iou
        parts.append((np.array(image.found), kinds, passed, about, np.array(image.objects)))
    return _joined(collected, parts, overlaps)


def _joined(
    collected: Collected, parts: Sequence[tuple[np.ndarray, ...]], overlaps: dict[int, np.ndarray]
) -> Matches:
    """The images' arrays end to end."""
    none = [np.zeros(0, int)] * 5
    rows, kinds, passed, about, objects = (
        np.concatenate([*first]) for first in zip(none, *parts, strict=True)
    )
    rows, objects = rows.astype(int), objects.astype(int)
    found = [collected.found[i] for i in rows.tolist()]
    truth = [collected.truth[i] for i in objects.tolist()]
    return Matches(
        labels=_labels(found),
        scores=np.array([e["score"] for e in found], np.float64),
        images=np.array([e["image_id"] for e in found], int),
        rows=rows,
        kinds=kinds.astype(int),
        passed_over=passed.astype(bool),
        objects=about.astype(int),
        object_labels=_labels(truth),
        object_images=np.array([e["image_id"] for e in truth], int),
        object_rows=objects,
        overlaps=overlaps,
    )


def _by_image(
    collected: Collected, rows: Sequence[int], objects: Sequence[int]
) -> Iterator[_Image]:
    """Each image with what is on it."""
    images = {e["id"]: _Image(e["id"], [], [], []) for e in collected.images}
    for i in sorted(rows, key=lambda i: -collected.found[i]["score"]):  # stable
        best = images[collected.found[i]["image_id"]].found
        if len(best) < MOST:
            best.append(i)
    for i in objects:
        entry = collected.truth[i]
        image = images[entry["image_id"]]
        (image.crowds if entry["iscrowd"] else image.objects).append(i)
    yield from images.values()


def _kinds(
    labels: np.ndarray, truth: np.ndarray, iou: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one image's detections: whether right, the kind of error, and the object it is about."""
    if not len(truth):
        return (
            np.zeros(len(labels), bool),
            np.full(len(labels), BACKGROUND),
            np.full(len(labels), -1),
        )
    same = labels[:, None] == truth
    free, about = iou * same, np.full(len(labels), -1)
    taken = np.zeros(len(truth), bool)
    for i in range(len(labels)):
        best = int(free[i].argmax())
        if free[i, best] >= IOU:
            about[i], taken[best], free[:, best] = best, True, 0
    took = about >= 0
    own, others, again = iou * same, iou * ~same, iou * same * taken
    nearest = own.max(1)
    # Of those not right, in this order: IoU 0.1 to 0.5 with an object of the class; 0.5 or more
    # with one of another; with one that is taken; 0.1 or less with all; else both.
    conditions = {
        RIGHT: took,
        LOCATION: (nearest >= BACKGROUND_IOU) & (nearest <= IOU),
        CLASS: others.max(1) >= IOU,
        DUPLICATE: again.max(1) >= IOU,
        BACKGROUND: iou.max(1) <= BACKGROUND_IOU,
    }
    kinds = np.select(list(conditions.values()), list(conditions), BOTH)
    for kind, values in ((LOCATION, own), (CLASS, others), (DUPLICATE, again)):
        about = np.where(kinds == kind, values.argmax(1), about)
    return took, kinds, about


class _Shapes:
    """Overlaps of boxes or masks, computed by the evaluator that computes AP."""

    def __init__(self, collected: Collected, kind: str) -> None:
        from faster_coco_eval.core import mask  # type: ignore[import-untyped]

        self.mask, self.kind = mask, kind
        self.sizes = {e["id"]: (e["width"], e["height"]) for e in collected.images}

    def overlaps(self, found: Sequence[Entry], truth: Sequence[Entry], crowd: int) -> np.ndarray:
        """(found, truth): IoU; with a crowd the share of the detection that is within it."""
        if not (found and truth):
            return np.zeros((len(found), len(truth)))
        shapes = [self._shape(e) for e in found], [self._shape(e) for e in truth]
        return np.asarray(self.mask.iou(*shapes, [crowd] * len(truth)), np.float64)

    def _shape(self, entry: Entry) -> object:
        if self.kind == "bbox":
            return entry["bbox"]
        return self.mask.segmToRle(entry["segmentation"], *self.sizes[entry["image_id"]])


def _labels(entries: Sequence[Entry]) -> np.ndarray:
    return np.array([e["category_id"] for e in entries], int)
