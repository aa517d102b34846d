"""``--proposals``: where a command takes the boxes that a Fast R-CNN or R-CNN classifies."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.dataset import DetectionDataset
from ..data.items import Item
from ..data.proposal_cache import compute_proposals
from ..data.proposal_datasets import with_proposals
from ..data.proposal_files import image_names, write_proposals
from ..data.recall import proposal_recall
from ..inputs.image_files import file_sizes
from ..inputs.images import ImageError
from ..inputs.proposals import Proposed
from ..messages import one_line
from ..outputs.coco import image_ids
from ..progress import bar
from .errors import CommandError
from .flags.proposals import SEARCHES

if TYPE_CHECKING:
    from ..models import Detector


def attach(
    args: argparse.Namespace, model: Detector, dataset: DetectionDataset, folder: Path
) -> DetectionDataset:
    """A data set with the proposals that its model needs; itself where the model makes its own."""
    source = args.proposals
    if not getattr(model, "needs_proposals", False):
        if source is not None:
            raise CommandError(
                f"--proposals goes with a Fast R-CNN or R-CNN: a {type(model).__name__} makes its "
                "own"
            )
        return dataset
    if source is None:
        raise CommandError(
            f"a {type(model).__name__} classifies proposals: give --proposals FILE, or "
            f"--proposals {next(iter(SEARCHES))}"
        )
    try:
        mode = SEARCHES.get(source)
        # Selective Search keeps in ``folder`` what it found
        path = Path(source) if mode is None else compute_proposals(dataset, folder, mode)
        return with_proposals(dataset, path, allow_missing=path.suffix.lower() == ".json")
    except (OSError, ValueError, ImportError) as error:
        raise CommandError(f"--proposals: {one_line(error)}") from error


def check_no_search(args: argparse.Namespace) -> None:
    """Refuse to look for proposals on several machines."""
    if args.proposals in SEARCHES:
        raise CommandError(
            f"--proposals {args.proposals} searches on one machine: do it there first, and give "
            "the file that it keeps to all of them"
        )


def of_images(
    args: argparse.Namespace, model: Detector, paths: Sequence[Path]
) -> dict[int, np.ndarray] | None:
    """(P, 4) xyxy pixels of image files by place; ``None`` where the model makes its own."""
    needs = getattr(model, "needs_proposals", False)
    places, items, ids = [], [], image_ids(paths)
    for i, path in enumerate(paths if needs else ()):
        try:
            size = file_sizes(path)[1]
        except (OSError, ImageError):
            continue  # named when its turn comes
        places.append(i)
        items.append(Item(path, ids[i], path.name, size, _nothing()))
    dataset = attach(args, model, DetectionDataset(items, ("__background__",)), Path(args.out))
    if not needs:
        return None
    return {i: dataset.target(k)["proposals"] for k, i in enumerate(places)}


def write(path: Path, found: Sequence[tuple[Path, dict[str, np.ndarray]]], source: str) -> None:
    """What a proposal network found, as a file of proposals; ``source`` is for its note."""
    names = [image.name for image, _ in found]
    if len(set(names)) < len(names):
        names = [image.as_posix() for image, _ in found]
    boxes = {
        name: with_area(prediction) for name, (_, prediction) in zip(names, found, strict=True)
    }
    write_proposals(path, boxes, {"source": source})


def print_recall(args: argparse.Namespace, model: Detector, dataset: DetectionDataset) -> int:
    """How many objects a proposal network's boxes cover: it has no classes to score."""
    if args.json:
        raise CommandError("--json: a proposal network has no classes; predict writes its boxes")
    found: dict[str, Proposed] = {}
    try:
        for i, name in enumerate(bar(image_names(dataset), unit="image", desc="evaluate")):
            found[name] = with_area(model.predict(dataset[i].image)[0])
        recall = proposal_recall(with_proposals(dataset, found))
    except (OSError, ValueError) as error:
        raise CommandError(one_line(error), 1) from error
    print(recall)
    if args.metrics_json is not None:
        content = {**asdict(recall), "recall": recall.recall.tolist()}
        args.metrics_json.write_content(content)
    return 0


def with_area(prediction: dict[str, np.ndarray]) -> Proposed:
    """A proposal network's boxes as proposals; those without area, cut at a border, left out."""
    boxes, scores = prediction["boxes"], prediction["scores"]
    whole = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return Proposed(boxes[whole], scores[whole])


def data_folder(data: str) -> Path:
    """The folder of a data set, in which its proposals are kept."""
    return Path(data) if Path(data).is_dir() else Path(data).parent


def _nothing() -> dict[str, np.ndarray]:
    return {
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int32),
        "iscrowd": np.zeros(0, bool),
        "difficult": np.zeros(0, bool),
    }
