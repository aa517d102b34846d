"""What a data set is, by what is asked of it: this package's, or any that has as much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .items import Item
from .sample import Sample, Target


class Dataset(Protocol):
    """What is predicted on and evaluated: samples, and the names of their labels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...

    @property
    def class_names(self) -> Sequence[str]:
        """One name a label, the background's first."""


class SizedDataset(Dataset, Protocol):
    """What is trained on: the sizes say which images make a batch before one is loaded."""

    @property
    def sizes(self) -> np.ndarray:
        """(n, 2): height and width of every image, in pixels."""


class Annotated(SizedDataset, Protocol):
    """A data set whose objects are known without loading an image."""

    def target(self, index: int, /) -> Target:
        """The objects of an image, without masks."""


class OnDisk(Protocol):
    """A data set of image files."""

    @property
    def items(self) -> Sequence[Item]:
        """One an image."""


class AnnotatedFiles(Annotated, OnDisk, Protocol):
    """A data set of image files whose objects are known without loading one."""
