"""A data set divided into training, validation and test images, with the same share of each class.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011): the class with the fewest images
left is dealt out first, each image to the part that lacks most of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .divide import same_images
from .protocols import AnnotatedFiles


def stratified(
    dataset: AnnotatedFiles, fractions: Mapping[str, float], seed: int = 0
) -> dict[str, list[int]]:
    """Divide by image into rising indices by part, each not empty; same bytes stay together."""
    names, count = ["train", *fractions], len(dataset)
    # of each part but the first more than 0, together less than 1; "train" gets the rest
    shares = np.array([1 - sum(fractions.values()), *fractions.values()])
    if not fractions or (shares <= 0).any():
        text = ", ".join(f"{name} {share:g}" for name, share in fractions.items())
        raise ValueError(f"fractions {text}: expected more than 0, and less than 1 together")
    groups = same_images(dataset)
    if len(groups) < len(names):
        raise ValueError(f"{len(groups)} different images cannot be {len(names)} parts")
    objects = _counts(dataset, groups)
    sizes = np.array([len(group) for group in groups])
    room = np.maximum(np.round(shares * count), 1)
    room[0] = count - room[1:].sum()
    while room[0] < 1:  # tiny data: each part has one
        room[room.argmax()] -= 1
        room[0] += 1
    part = _dealt(objects, sizes, room, shares, np.random.default_rng([seed, count]))
    _fill_empty(part, sizes, len(names))
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        chosen = [i for group, p in zip(groups, part, strict=True) if p == number for i in group]
        found[name] = sorted(chosen)
    return found


def _counts(dataset: AnnotatedFiles, groups: list[list[int]]) -> np.ndarray:
    """(groups, classes): objects, crowds left out."""
    found = np.zeros((len(groups), len(dataset.class_names)), np.int64)
    for row, group in zip(found, groups, strict=True):
        for i in group:
            target = dataset.target(i)
            row += np.bincount(target["labels"][target["iscrowd"] == 0], minlength=len(row))
    return found


def _dealt(
    objects: np.ndarray,
    sizes: np.ndarray,
    room: np.ndarray,
    shares: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """The part of each group."""
    part = np.full(len(objects), -1)
    room = room.astype(np.float64)
    lacking = objects.sum(axis=0)[:, None] * shares[None]
    shuffled = rng.permutation(len(objects))
    while (part < 0).any():
        left = shuffled[part[shuffled] < 0]
        having = (objects[left] > 0).sum(axis=0)
        classes = np.flatnonzero(having)
        label = int(classes[having[classes].argmin()]) if len(classes) else None
        chosen = left if label is None else left[objects[left, label] > 0]
        if label is not None:  # those with many first, while there is room to even them out
            chosen = chosen[np.argsort(-objects[chosen, label], kind="stable")]
        for group in chosen.tolist():
            open_ = np.flatnonzero(room >= min(1, room.max()))
            need = np.zeros(len(room)) if label is None else lacking[label]
            # What a part lacks, in units of its share; then which has the most room.
            rank = np.lexsort((room[open_] / shares[open_], (need / shares)[open_]))
            taken = int(open_[rank[-1]])
            part[group] = taken
            room[taken] -= sizes[group]
            lacking[:, taken] -= objects[group]
    return part


def _fill_empty(part: np.ndarray, sizes: np.ndarray, count: int) -> None:
    """Give a part without images the smallest group of the part with the most."""
    for number in range(count):
        if not (part == number).any():
            groups = np.bincount(part, minlength=count)
            largest = np.flatnonzero(part == groups.argmax())
            part[largest[sizes[largest].argmin()]] = number
