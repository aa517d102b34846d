"""``mlx_rcnn evaluate``: the average precision of a model on annotated images."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.categories import NEVER_ANNOTATED, class_names_of
from ..data import DetectionDataset, open_dataset
from ..evaluation import coco_metrics, collect, read_results, results_entries, voc_metrics
from ..evaluation.coco import load_evaluator
from ..evaluation.table import metrics_table
from ..messages import listing, one_line
from ..outputs.coco import write_results
from .errors import CommandError, load_model
from .flags import model_settings
from .preflight import check_writable, make_folders, set_device
from .proposals import attach, data_folder, print_recall
from .view_flags import augmentation, check_augmentation

_DEFECTS_SHOWN = 10
_SCORE_THRESH = 0.05


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
    results, augment = _prepare(args), augmentation(args)
    if args.predictions:
        return _score_again(args)
    model, dataset = _opened(args, results)
    check_augmentation(model, augment)
    if getattr(model, "finds_objects", False):  # and has no classes to score
        _complain(dataset)
        return print_recall(args, model, dataset)
    difference = _difference(model.class_names, dataset.class_names)
    dataset = _with_classes_of(model, dataset)
    dataset = attach(args, model, dataset, data_folder(args.data))
    if args.metric == "coco" and getattr(model, "needs_keypoints", False):
        _check_keypoints(model, dataset)
    _complain(dataset)
    if results is not None:
        make_folders([results.parent])
    with kept_until_scored(results) as kept:
        collected = _collect(args, model, dataset, augment)
        # The detections first: they are what took the time.
        try:
            write_results(kept, results_entries(collected, dataset.category_ids))
        except OSError as error:
            raise CommandError(f"cannot write {kept}: {error.strerror}", 1) from error
        found = _score(args, collected, kept)
    print("\n".join([*metrics_table(found, args.metric), *difference]))
    if results is not None:
        print(f"results: {results}")
    return 0


def _prepare(args: argparse.Namespace) -> Path | None:
    """What needs neither data nor model; the results file asked for, if one was."""
    results = Path(args.json) if args.json else None
    if results is not None:
        if args.predictions:
            raise CommandError("--json goes with --model: --predictions is such a file already")
        if results.is_dir():
            raise CommandError(f"--json {results} is a folder: expected a file")
        check_writable(results.parent)
    if args.predictions and (args.tta_sizes or args.tta_flip):
        raise CommandError("--tta-sizes and --tta-flip go with --model")
    set_device(args.device)
    if args.metric == "coco":
        try:
            load_evaluator()
        except ImportError as error:
            raise CommandError(str(error)) from error
    return results


def _opened(args: argparse.Namespace, results: Path | None) -> tuple[Any, DetectionDataset]:
    """The model, and the data with the masks it needs; the data is opened first."""
    dataset, problem = None, None
    try:
        dataset = _dataset(args)
    except CommandError as error:
        if not args.strict or args.metric != "coco":
            raise
        _dataset(args, masks=False)  # its own defects are an error for every model
        problem = error  # of masks or keypoints, of which a model of boxes makes nothing
    if results is not None and dataset is not None:
        _check_not_data(args, results, dataset)
    model = load_model(args.model, args.dtype, model_settings(args))
    if not getattr(model, "needs_masks", True) and (dataset is None or dataset.masks):
        dataset = _dataset(args, masks=False)
    if dataset is None:
        raise problem or CommandError(f"{args.data} cannot be opened")
    return model, replace(dataset, levels=model.config.image_levels)


@contextmanager
def kept_until_scored(results: Path | None) -> Iterator[Path]:
    """Where detections are written before they are scored.

    Args:
        results: the file asked for, if one was.

    Yields:
        That file; else one in the system's temporary folder, which is removed once all is well.
    """
    if results is not None:
        yield results
        return
    folder = Path(tempfile.mkdtemp(prefix="mlx_rcnn-"))  # nobody else's to write in
    kept, done = folder / "detections.json", False
    try:
        yield kept
        done = True
    finally:
        if done or not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)


def _score(args: argparse.Namespace, collected: Any, kept: Path) -> dict[str, Any]:
    """The metrics; whatever happens to them, the detections are on the disk."""
    try:
        coco = args.metric == "coco"
        return coco_metrics(collected) if coco else voc_metrics(collected, args.metric)
    except Exception as error:  # of an evaluator that is not ours
        raise CommandError(
            f"{args.metric}'s metrics failed: {type(error).__name__}: {one_line(error)}; the "
            f"detections are kept: --predictions {kept} scores them without predicting again",
            1,
        ) from error


def _score_again(args: argparse.Namespace) -> int:
    """Metrics of detections from a file, of which no model is needed."""
    path = Path(args.predictions)
    dataset = _dataset(args)
    if args.class_names is not None:
        try:
            names = class_names_of(args.class_names, len(dataset.class_names))
            dataset = dataset.with_classes(names)
        except (OSError, ValueError) as error:
            raise CommandError(one_line(error)) from error
    _complain(dataset)
    try:
        collected = read_results(path, dataset)
    except (OSError, ValueError) as error:
        raise CommandError(f"--predictions {one_line(error)}") from error
    print("\n".join(metrics_table(_score(args, collected, path), args.metric)))
    return 0


def _dataset(args: argparse.Namespace, masks: bool | None = None) -> DetectionDataset:
    wanted = None if args.metric == "coco" else False  # masks and keypoints, if there are any
    try:
        return open_dataset(
            args.data,
            args.format,
            args.split,
            None,
            wanted if masks is None else masks,
            keypoints=wanted,
            images=args.images,
            strict=args.strict,
        )
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


def _collect(args: argparse.Namespace, model: Any, dataset: DetectionDataset, augment: Any) -> Any:
    least = args.score_thresh
    if least is None:
        own = "box_score_thresh" in dict(args.settings or ())
        least = model.config.box_score_thresh if own else _SCORE_THRESH
    try:
        return collect(
            model,
            dataset,
            batch_size=args.batch_size,
            score_thresh=least,
            progress=len(dataset) > 1,
            max_unreadable=args.max_unreadable,
            augment=augment,
        )
    except (OSError, ValueError) as error:  # an image that is damaged further down
        raise CommandError(one_line(error), 1) from error
