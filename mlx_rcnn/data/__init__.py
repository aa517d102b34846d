"""Datasets: VOC, COCO, YOLO, LabelMe, CVAT and made-up shapes; checks, augmentation, loading."""

from ..inputs.proposals import Proposed, check_proposals
from .augment import (
    Augmentation,
    ColourJitter,
    Compose,
    HorizontalFlip,
    RandomRotate90,
    RandomShortSide,
    ScaleJitterCrop,
    VerticalFlip,
)
from .balance import repeat_factors
from .dataset import DetectionDataset
from .loader import Loader, TrainBatch
from .mosaic import Mosaic
from .open import open_dataset
from .proposal_cache import compute_proposals
from .proposal_datasets import read_proposal_results, with_proposals
from .proposal_files import image_names, read_note, read_proposals, write_proposals
from .recall import ProposalRecall, proposal_recall
from .report import DatasetReport, report
from .sample import DatasetError, Defect, Sample
from .selective_search import selective_search
from .shapes import ShapesDataset
from .write import write_coco
from .writers.write import WrittenDataset, write_dataset

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
    "Mosaic",
    "ProposalRecall",
    "Proposed",
    "RandomRotate90",
    "RandomShortSide",
    "Sample",
    "ScaleJitterCrop",
    "ShapesDataset",
    "TrainBatch",
    "VerticalFlip",
    "WrittenDataset",
    "check_proposals",
    "compute_proposals",
    "image_names",
    "open_dataset",
    "proposal_recall",
    "read_note",
    "read_proposal_results",
    "read_proposals",
    "repeat_factors",
    "report",
    "selective_search",
    "with_proposals",
    "write_coco",
    "write_dataset",
    "write_proposals",
]
