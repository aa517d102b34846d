"""R-CNN's SVMs: one a class, trained on hard negatives (Girshick et al., 2014, section 2.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..config.boxes import RCNNConfig
from ..layers import Linear
from ..models import RCNN, crop_units
from ..ops import box_iou
from ..structures import ArrayLike
from .crop_samples import CropSample, Examples, crop_samples
from .hinge import Hyperplane, fit_hinge

HARD = -1.0  # margin of a negative from which it bears on the SVM
EASY = -1.2  # and below which it is let go
RETRAIN = 2000  # new negatives of a class after which its SVM is fitted anew
FEW = 0.01  # of the negatives held: a pass that adds no more than this is the last
UNSEEN = -100.0  # bias of a class without examples: it is never found


class SVMCounts(NamedTuple):
    """What :func:`fit_svms` learned from."""

    positives: list[int]  # a number for each class 1..C-1, as the negatives
    negatives: list[int]
    added: list[int]  # how many negatives each pass over the images has added
    scale: float  # the factor of the features, which the weights that the model now has contain


class _Settings(NamedTuple):
    """Arguments of :func:`fit_svms`."""

    c: float
    positive_weight: float
    norm: float
    first_negatives: int
    max_passes: int
    progress: bool


def fit_svms(
    model: RCNN,
    samples: Examples,
    proposals: Sequence[ArrayLike] | None = None,
    *,
    c: float = 0.001,
    positive_weight: float = 2.0,
    norm: float = 20.0,
    first_negatives: int = 8,
    max_passes: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> SVMCounts:
    """Train a linear SVM a class over the hidden units of a fine-tuned R-CNN.

    Positives are the targets' own boxes, but crowds; negatives are proposals that overlap every
    target of the class by less than ``config.svm_bg_iou_thresh``. After a start with a few of
    these, passes over the images add those whose margin is above -1 and fit the SVMs anew, until a
    pass adds no more than one in a hundred of those held. Negatives below -1.2 are let go. The
    model gets ``roi_heads.svms`` and ``rcnn_scores="svm"``; everything else stays.

    Args:
        model: changed in place, at the end.
        samples: a data set of :mod:`mlx_rcnn.data`, or pairs of an image and its target, a dict of
            ``boxes`` (G, 4) xyxy pixels of the image, ``labels`` (G,) in 1..C-1 and perhaps
            ``iscrowd`` (G,). Each is asked for once a pass.
        proposals: (P, 4) of each image, likewise xyxy. Default: each target's ``proposals``.
        c: weight of the hinge loss. Default: ``0.001``, the paper's code's, as the next two.
        positive_weight: factor of c of the positives. Default: ``2``.
        norm: to which the mean norm of the features is scaled. Default: ``20``.
        first_negatives: proposals of each image to start with. Default: ``8``.
        max_passes: over the images, at least 1; the paper's own gained nothing after one. Default:
            ``3``.
        seed: of the choice of the first negatives, and of the solver's order. Default: ``0``.
        progress: show a bar over the images. Default: ``False``.

    Returns:
        What they have learned from.

    Raises:
        TypeError: a model that is no R-CNN.
        ValueError: no samples, no proposals, a label out of range, boxes that cannot be used, or no
            target at all.
    """
    if not isinstance(model, RCNN):
        raise TypeError(f"fit_svms of a {type(model).__name__}: expected an RCNN")
    if len(samples) == 0 or max_passes < 1:
        raise ValueError(f"{len(samples)} samples, max_passes={max_passes}: expected at least 1")
    settings = _Settings(c, positive_weight, norm, first_negatives, max_passes, progress)
    mining = _Mining(model, samples, proposals, settings, seed)
    mining.start()
    added: list[int] = []
    while len(added) < max_passes:
        added.append(mining.one_pass())
        if added[-1] <= FEW * sum(len(one.keys) for one in mining.classes):
            break
    mining.give(model)
    counts = [(len(one.positives), len(one.keys)) for one in mining.classes]
    return SVMCounts([p for p, _ in counts], [n for _, n in counts], added, mining.scale)


class _Class:
    """One SVM with the rows it is fitted to; ``keys`` are (image, proposal) of its negatives."""

    def __init__(self, units: int, settings: _Settings, seed: int):
        self.settings, self.seed = settings, seed
        self.positives = self.negatives = np.zeros((0, units), np.float32)
        self.keys: list[tuple[int, int]] = []
        self.held: set[tuple[int, int]] = set()  # the same
        self.examples: list[np.ndarray] = []
        self.new: list[np.ndarray] = []
        self.waiting = 0
        self.plane = Hyperplane(np.zeros(units, np.float32), UNSEEN, np.zeros(0))

    def add(self, image: int, chosen: np.ndarray, rows: np.ndarray) -> int:
        """Hold negatives of an image that are not held already; how many those were."""
        fresh = [k for k, i in enumerate(chosen.tolist()) if (image, i) not in self.held]
        keys = [(image, int(chosen[k])) for k in fresh]
        self.keys += keys
        self.held.update(keys)
        self.new.append(rows[fresh])
        self.waiting += len(fresh)
        return len(fresh)

    def fit(self) -> None:
        """Fit the SVM to all that is held, from where it was; a class without examples stays."""
        old = self.plane.duals
        self.negatives = np.concatenate([self.negatives, *self.new])
        self.new, self.waiting = [], 0
        if not len(self.positives):
            return
        rows = np.concatenate([self.positives, self.negatives])
        count = len(self.positives)
        self.plane = fit_hinge(
            rows,
            np.arange(len(rows)) < count,
            self.settings.c,
            positive_weight=self.settings.positive_weight,
            duals=np.append(old, np.zeros(len(rows) - len(old))),
            seed=self.seed,
        )
        stay = self.plane.margins(self.negatives) >= EASY
        self.negatives = self.negatives[stay]
        self.keys = [key for key, kept in zip(self.keys, stay, strict=True) if kept]
        self.held = set(self.keys)
        duals = self.plane.duals
        self.plane = self.plane._replace(duals=np.append(duals[:count], duals[count:][stay]))


class _Mining:
    """The SVMs of all classes, and the passes over the images."""

    def __init__(
        self,
        model: RCNN,
        samples: Examples,
        proposals: Sequence[ArrayLike] | None,
        settings: _Settings,
        seed: int,
    ) -> None:
        self.model, self.samples, self.proposals = model, samples, proposals
        self.settings, self.random = settings, np.random.default_rng(seed)
        self.scale = 1.0
        units = model.roi_heads.box_predictor.cls_score.weight.shape[1]
        self.classes = [_Class(units, settings, seed) for _ in range(model.num_classes - 1)]

    def start(self) -> None:
        """Take the positives and the first negatives, scale them, and fit."""
        total = count = 0.0
        for image in self._images():
            order = self.random.permutation(len(image.proposals))
            chosen = np.sort(order[: self.settings.first_negatives])
            every = np.concatenate([image.boxes, image.proposals[chosen]])
            rows = self._units(image, every)
            total, count = total + np.linalg.norm(rows, axis=1).sum(), count + len(rows)
            own, others = np.split(rows, [len(image.boxes)])
            for label, one in enumerate(self.classes, 1):
                mine = own[image.examples & (image.labels == label)]
                one.examples.append(mine)
                far = self._background(image, label)[chosen]
                one.add(image.number, chosen[far], others[far])
        self.scale = float(self.settings.norm * count / max(total, 1e-12))
        for one in self.classes:
            one.positives = np.concatenate(one.examples) * np.float32(self.scale)
            one.new = [rows * np.float32(self.scale) for rows in one.new]
            one.fit()
        if not any(len(one.positives) for one in self.classes):
            raise ValueError("the samples have no targets: expected at least one to learn from")

    def one_pass(self) -> int:
        """Add the hard negatives of all images; how many there were."""
        added = 0
        for image in self._images():
            rows = self._units(image, image.proposals) * np.float32(self.scale)
            for label, one in enumerate(self.classes, 1):
                hard = self._background(image, label) & (one.plane.margins(rows) > HARD)
                chosen = np.flatnonzero(hard)
                added += one.add(image.number, chosen, rows[chosen])
                if one.waiting >= RETRAIN:
                    one.fit()
        for one in self.classes:
            if one.waiting:
                one.fit()
        return added

    def give(self, model: RCNN) -> None:
        """Put the SVMs into the model."""
        weight = np.stack([one.plane.weight for one in self.classes]) * np.float32(self.scale)
        bias = np.array([one.plane.bias for one in self.classes], np.float32)
        svms = Linear(weight.shape[1], len(bias))
        dtype = model.roi_heads.box_predictor.cls_score.weight.dtype
        svms.weight, svms.bias = mx.array(weight).astype(dtype), mx.array(bias).astype(dtype)
        model.roi_heads.svms = svms
        config: RCNNConfig = model.config
        model.config = replace(config, rcnn_scores="svm")

    def _images(self) -> Iterator[CropSample]:
        return crop_samples(self.model, self.samples, self.proposals, self.settings.progress)

    def _units(self, image: CropSample, boxes: np.ndarray) -> np.ndarray:
        [rows] = crop_units(self.model, [image.picture], [boxes])
        return rows

    def _background(self, image: CropSample, label: int) -> np.ndarray:
        """Which proposals (P,) are background to a class."""
        own = image.boxes[image.labels == label]
        if not len(own) or not len(image.proposals):
            return np.ones(len(image.proposals), bool)
        iou = np.array(box_iou(mx.array(image.proposals), mx.array(own)))
        far: np.ndarray = iou.max(axis=1) < self.model.config.svm_bg_iou_thresh
        return far
