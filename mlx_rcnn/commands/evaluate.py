"""``mlx_rcnn evaluate``: the average precision of a model on annotated images."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from ..data import DetectionDataset, open_dataset
from ..evaluation import coco_metrics, collect, results_entries, voc_metrics
from ..evaluation.coco import load_evaluator
from ..results import write_results
from . import CommandError, load_model
from .places import check_writable, make_folders, set_device

_DEFECTS_SHOWN = 10
_MAIN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def run(args: argparse.Namespace) -> int:
    """Measure ``args.model`` on ``args.data`` and print the metrics.

    All that can be wrong with the arguments and the data is checked before the model is loaded,
    and its classes before it predicts.

    Args:
        args: the parsed command line.

    Returns:
        The exit code, 0.

    Raises:
        CommandError: an argument or data that cannot work, or results that cannot be written.
    """
    results = Path(args.json) if args.json else None
    if results is not None:
        if results.is_dir():
            raise CommandError(f"--json {results} is a folder: expected a file")
        check_writable(results.parent)
    set_device(args.device)
    if args.metric == "coco":
        try:
            load_evaluator()
        except ImportError as error:
            raise CommandError(str(error)) from error
    dataset = _dataset(args)
    if results is not None:
        _check_not_data(args, results, dataset)
    model = load_model(args.model, args.dtype)
    dataset = _with_classes_of(model, dataset)
    _complain(dataset)
    if results is not None:
        make_folders([results.parent])
    collected = _collect(args, model, dataset)
    # The results first: they are what took the time.
    if results is not None:
        try:
            write_results(results, results_entries(collected, dataset.category_ids))
        except OSError as error:
            raise CommandError(f"cannot write {results}: {error.strerror}", 1) from error
    coco = args.metric == "coco"
    found = coco_metrics(collected) if coco else voc_metrics(collected, args.metric)
    print("\n".join(table(found, args.metric)))
    if results is not None:
        print(f"results: {results}")
    return 0


def table(found: dict[str, Any], metric: str) -> list[str]:
    """Lay metrics out as text.

    Args:
        found: what the evaluators give.
        metric: ``"coco"``, ``"voc07"`` or ``"voc"``.

    Returns:
        Lines: one a class, the metrics over all, and the speed.
    """
    columns = ["AP", "AP50", "segm_AP", "segm_AP50"] if metric == "coco" else ["AP"]
    rows = found["per_class"]
    columns = [c for c in columns if any(c in row for row in rows.values())]
    used = {name: row for name, row in rows.items() if row["objects"]}
    width = max(map(len, [*used, "class"]))
    heads = [c.replace("segm_", "mask ") for c in columns]
    lines = [f"{'class':<{width}}  objects" + "".join(f"  {head:>9}" for head in heads)]
    for name, row in used.items():
        values = "".join(f"  {_percent(row[c]):>9}" for c in columns)
        lines.append(f"{name:<{width}}  {row['objects']:>7}{values}")
    lines.append("")
    if metric == "coco":
        lines += _coco_lines(found, "box", "")
        if "segm_AP" in found:
            lines += _coco_lines(found, "mask", "segm_")
    else:
        kind = "11-point" if metric == "voc07" else "area"
        lines.append(f"mAP at IoU 0.5 ({kind}) {_percent(found['mAP'])}")
    images = found["images"]
    lines.append(
        f"{images} image{'s' * (images != 1)}, {found['objects']} objects, "
        f"{found['detections']} detections; images per second: "
        f"{found['images_per_second']:.2f} model"
    )
    return lines


def _coco_lines(found: dict[str, Any], title: str, prefix: str) -> list[str]:
    shown = [f"{name} {_percent(found[prefix + name])}" for name in _MAIN]
    return [f"{title:<5}{'  '.join(shown[:6])}", f"{'':<5}{'  '.join(shown[6:])}"]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _dataset(args: argparse.Namespace) -> DetectionDataset:
    masks = None if args.metric == "coco" else False
    try:
        # Of VOC there are no masks, which None allows for.
        return open_dataset(
            args.data, args.format, args.split, None, masks, images=args.images, strict=args.strict
        )
    except (OSError, ValueError) as error:
        raise CommandError(" ".join(str(error).split())) from error


def _check_not_data(args: argparse.Namespace, results: Path, dataset: DetectionDataset) -> None:
    taken = {Path(args.data).resolve(), *(item.path.resolve() for item in dataset.items)}
    if results.resolve() in taken:
        raise CommandError(f"--json {results} is part of the data: expected another file")


def _with_classes_of(model: Any, dataset: DetectionDataset) -> DetectionDataset:
    if model.class_names is None:
        have, want = model.config.num_classes - 1, len(dataset.class_names) - 1
        if have != want:
            raise CommandError(
                f"the model has {have} classes without names, but the data has {want}: "
                f"{', '.join(dataset.class_names[1:])}"
            )
        return dataset
    try:
        return dataset.with_classes(model.class_names)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _complain(dataset: DetectionDataset) -> None:
    for defect in dataset.defects[:_DEFECTS_SHOWN]:
        print(f"mlx_rcnn: {defect}", file=sys.stderr)
    more = len(dataset.defects) - _DEFECTS_SHOWN
    if more > 0:
        print(f"mlx_rcnn: ... and {more} more defects in the data", file=sys.stderr)


def _collect(args: argparse.Namespace, model: Any, dataset: DetectionDataset) -> Any:
    try:
        return collect(
            model,
            dataset,
            batch_size=args.batch_size,
            score_thresh=args.score_thresh,
            progress=len(dataset) > 1,
        )
    except (OSError, ValueError) as error:  # an image that is damaged further down
        raise CommandError(" ".join(str(error).split()), 1) from error
