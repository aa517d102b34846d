"""``mlx_rcnn evaluate``: the average precision of a model on annotated images."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from ..config.categories import NEVER_ANNOTATED
from ..data import DetectionDataset, open_dataset
from ..evaluation import coco_metrics, collect, results_entries, voc_metrics
from ..evaluation.coco import load_evaluator
from ..messages import listing, one_line
from ..outputs.coco import write_results
from ..tables import display_width, pad
from .errors import CommandError, load_model
from .flags import model_settings
from .preflight import check_writable, make_folders, set_device

_DEFECTS_SHOWN = 10
_MAIN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_KEYPOINT = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
# How the table calls COCO's kinds, which lie under a prefix of the metrics' names.
_KINDS = {"": "box", "segm_": "mask", "keypoints_": "keypoint"}


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
    model = load_model(args.model, args.dtype, model_settings(args))
    if dataset.masks and not getattr(model, "needs_masks", True):  # boxes count
        dataset = _dataset(args, masks=False)
    difference = _difference(model.class_names, dataset.class_names)
    dataset = _with_classes_of(model, dataset)
    if args.metric == "coco" and getattr(model, "needs_keypoints", False):
        _check_keypoints(model, dataset)
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
    print("\n".join([*table(found, args.metric), *difference]))
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
    both = [f"{prefix}{key}" for prefix in _KINDS for key in ("AP", "AP50")]
    columns = both if metric == "coco" else ["AP"]
    rows = found["per_class"]
    columns = [c for c in columns if any(c in row for row in rows.values())]
    used = {name: row for name, row in rows.items() if row["objects"]}
    width = max(map(display_width, [*used, "class"]))
    heads = [_head(column) for column in columns]
    widths = [max(len(head), 9) for head in heads]
    cells = [f"  {head:>{size}}" for head, size in zip(heads, widths, strict=True)]
    lines = [f"{'class':<{width}}  objects" + "".join(cells)]
    for name, row in used.items():
        cells = [f"  {_percent(row[c]):>{size}}" for c, size in zip(columns, widths, strict=True)]
        lines.append(f"{pad(name, width)}  {row['objects']:>7}{''.join(cells)}")
    lines.append("")
    if metric == "coco":
        lines += _coco_lines(found)
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


def _head(column: str) -> str:
    """A column's title: ``mask AP50`` of ``segm_AP50``; of boxes the metric alone."""
    prefix, sign, metric = column.rpartition("_")
    return f"{_KINDS[prefix + sign]} {metric}" if sign else metric


def _coco_lines(found: dict[str, Any]) -> list[str]:
    """Two lines a kind, of precision and of recall."""
    kinds = {prefix: title for prefix, title in _KINDS.items() if f"{prefix}AP" in found}
    width = max(map(len, [*kinds.values(), "mask"])) + 1
    lines = []
    for prefix, title in kinds.items():
        names = _KEYPOINT if title == "keypoint" else _MAIN
        shown = [f"{name} {_percent(found[prefix + name])}" for name in names]
        half = len(shown) // 2
        lines.append(f"{title:<{width}}{'  '.join(shown[:half])}")
        lines.append(f"{'':<{width}}{'  '.join(shown[half:])}")
    return lines


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _dataset(args: argparse.Namespace, masks: bool | None = None) -> DetectionDataset:
    wanted = None if args.metric == "coco" else False  # masks and keypoints, if there are any
    try:
        return open_dataset(
            args.data, args.format, args.split, None, wanted if masks is None else masks,
            keypoints=wanted,
            images=args.images, strict=args.strict,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise CommandError(one_line(error)) from error


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
                f"{', '.join(dataset.class_names[1:])}; give the model's names with --classes"
            )
        print(
            "mlx_rcnn: warning: the model has no class names: its labels are taken in the order of "
            f"the data, {', '.join(dataset.class_names[1:])}; --classes gives the model's names",
            file=sys.stderr,
        )
        return dataset
    try:
        return dataset.with_classes(model.class_names)
    except ValueError as error:
        raise CommandError(f"{error}; --classes gives the model's classes other names") from error


def _difference(own: tuple[str, ...] | None, data: tuple[str, ...]) -> list[str]:
    """One line if the model's names and the data's are not the same in the same order."""
    if own is None or own == data:
        return []
    names = [name for name in own[1:] if name != NEVER_ANNOTATED]
    shared = [name for name in data[1:] if name in names]
    lacking = [name for name in names if name not in shared]
    more = [name for name in data[1:] if name not in names]
    text = f"classes are matched by name: {len(shared)} of the model's {len(names)} are in the data"
    if lacking:
        text += f", which lacks {listing(lacking, 4)}"
    if more:
        text += f"; without objects, and unknown to the model: {listing(more, 4)}"
    if [own.index(name) for name in shared] != [data.index(name) for name in shared]:
        text += "; their numbers differ"
    return [text]


def _check_keypoints(model: Any, dataset: DetectionDataset) -> None:
    """Refuse keypoints of another number, and say if those that are compared have other names."""
    names, own = dataset.keypoint_names, model.keypoint_names
    if names is None:
        text = "the data has no keypoints that all its classes share: boxes alone are measured"
        print(f"mlx_rcnn: warning: {text}", file=sys.stderr)
        return
    count = model.roi_heads.keypoint_predictor.num_keypoints
    if len(names) != count:
        raise CommandError(
            f"the model finds {count} keypoints, but the data has {len(names)}: {', '.join(names)}"
        )
    if own is not None and own != names:
        at = next(i for i, pair in enumerate(zip(own, names, strict=True)) if len(set(pair)) > 1)
        print(
            f"mlx_rcnn: warning: keypoint {at + 1} is {own[at]} to the model and {names[at]} in "
            "the data: they are compared by their place",
            file=sys.stderr,
        )


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
        raise CommandError(one_line(error), 1) from error
