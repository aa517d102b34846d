"""Datasets: VOC, COCO and made-up shapes; checks, augmentation and loading."""

from .augment import (
    Augmentation,
    ColourJitter,
    Compose,
    HorizontalFlip,
    RandomShortSide,
    ScaleJitterCrop,
    VerticalFlip,
)
from .dataset import DetectionDataset
from .loader import Loader, TrainBatch
from .open import open_dataset
from .report import DatasetReport, report
from .sample import DatasetError, Defect, Sample
from .shapes import ShapesDataset
from .write import write_coco

__all__ = [
    "Augmentation",
    "ColourJitter",
    "Compose",
    "DatasetError",
    "DatasetReport",
    "Defect",
    "DetectionDataset",
    "HorizontalFlip",
    "Loader",
    "RandomShortSide",
    "Sample",
    "ScaleJitterCrop",
    "ShapesDataset",
    "TrainBatch",
    "VerticalFlip",
    "open_dataset",
    "report",
    "write_coco",
]
