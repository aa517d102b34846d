"""The flag ``--proposals``: light, so that ``--help`` stays quick."""

from __future__ import annotations

from .common import Flags

SEARCHES = {"selective-search": "fast", "selective-search-quality": "quality"}
"""Names that stand for OpenCV's Selective Search, and the mode of each."""


def add_proposals(parser: Flags) -> None:
    """Add ``--proposals``."""
    parser.add_argument(
        "--proposals",
        metavar="FILE",
        help="boxes that a Fast R-CNN or R-CNN classifies: an .npz of proposals, a COCO results "
        "file, or selective-search (or selective-search-quality), which OpenCV computes once and "
        "which is kept beside the data (default: none; other models make their own)",
    )
