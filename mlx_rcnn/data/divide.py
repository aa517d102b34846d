"""A data set divided by image, and images that two data sets share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .items import Item
from .protocols import Dataset, OnDisk, SizedDataset
from .sample import Sample

T = TypeVar("T")


class Subset:
    """Some images of a data set, by index; all else is the data set's own."""

    def __init__(self, dataset: SizedDataset, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices
        self.sizes = np.asarray(dataset.sizes)[indices]
        if hasattr(dataset, "items"):
            self.items = [dataset.items[i] for i in indices]
        for name in ("target", "ground_truth"):
            if hasattr(dataset, name):
                setattr(self, name, self._at(getattr(dataset, name)))

    def _at(self, method: Callable[[int], T]) -> Callable[[int], T]:
        return lambda index: method(self.indices[index])

    def __getattr__(self, name: str) -> Any:
        if name in ("dataset", "items"):  # also while it is being copied
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


def divide(dataset: SizedDataset, fraction: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Divide by image, the same way for the same seed; each part keeps order, and has an image."""
    count = len(dataset)
    if not 0 < fraction < 1:
        raise ValueError(f"val_fraction={fraction}: expected more than 0 and less than 1")
    if count < 2:
        raise ValueError(f"{count} image cannot be divided: expected at least 2")
    chosen = min(max(round(fraction * count), 1), count - 1)
    order = np.random.default_rng([seed, count]).permutation(count)
    # in the data set's order, those to train on first
    parts = (sorted(order[chosen:].tolist()), sorted(order[:chosen].tolist()))
    return Subset(dataset, parts[0]), Subset(dataset, parts[1])


def shared_images(first: Dataset, second: Dataset) -> list[str]:
    """Names of ``second``'s images that are in ``first`` too: the same file, or the same bytes."""
    # data sets without files (``items``) share none
    mine = [item.path.resolve() for item in getattr(first, "items", ())]
    others: Sequence[Item] = getattr(second, "items", ())
    theirs = [item.path.resolve() for item in others]
    if not mine or not theirs:
        return []
    known, sizes = set(mine), {}  # type: set[Path], dict[int, list[Path]]
    for path in mine:
        sizes.setdefault(_size(path), []).append(path)
    digests: dict[Path, bytes] = {}
    found = []
    for item, path in zip(others, theirs, strict=True):
        if path in known or any(
            _digest(path, digests) == _digest(other, digests)
            for other in sizes.get(_size(path), ())
        ):
            found.append(item.name)
    return found


def same_images(dataset: OnDisk) -> list[list[int]]:
    """Indices grouped by the bytes of the images' files, in the data set's order; most alone."""
    paths = [item.path.resolve() for item in dataset.items]
    sizes: dict[int, int] = {}
    for path in dict.fromkeys(paths):
        sizes[_size(path)] = sizes.get(_size(path), 0) + 1
    digests: dict[Path, bytes] = {}
    groups: dict[Path | bytes, list[int]] = {}
    for i, path in enumerate(paths):
        key = path if sizes[_size(path)] == 1 else _digest(path, digests)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _size(path: Path) -> int:
    return path.stat().st_size if os.path.isfile(path) else -1


def _digest(path: Path, known: dict[Path, bytes]) -> bytes:
    """Of a file's bytes; a file that cannot be read is like no other."""
    if path not in known:
        try:
            known[path] = hashlib.sha256(path.read_bytes()).digest()
        except OSError:
            known[path] = str(path).encode()
    return known[path]
