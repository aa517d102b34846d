"""``mlx_rcnn evaluate``: the average precision of a model on annotated images."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ...config.categories import class_names_of
from ...data import DetectionDataset, open_dataset
from ...evaluation import Collected, coco_metrics, read_results, results_entries, voc_metrics
from ...evaluation.coco import load_evaluator
from ...evaluation.table import metrics_table
from ...messages import one_line
from ...outputs.coco import write_results
from ..errors import CommandError, load_model
from ..flags.common import model_settings
from ..flags.view import augmentation, check_augmentation
from ..preflight import make_folders, set_device
from ..proposals import attach, data_folder, print_recall
from ..said import say_problem
from ..sharing.first_machine import First
from ..sharing.machines import machines
from ..sharing.other_machine import Other
from ..sharing.unfinished import unfinished_paths
from .images import Images, check_several, collect_alone
from .names import check_keypoints, difference, with_classes_of
from .report import Metrics, check_report, is_results, results_against, save_report

if TYPE_CHECKING:
    from ...models import Detector

_DEFECTS_SHOWN = 10
Measured: TypeAlias = "tuple[Collected, DetectionDataset, Metrics]"
"""What was found and what is true, the data, and the metrics."""
Against: TypeAlias = "Collected | tuple[Detector, DetectionDataset] | None"
"""What is compared with: detections, or a model with the data in its labels, or nothing."""


def run(args: argparse.Namespace) -> int:
    """Measure ``args.model`` on ``args.data`` and print the metrics."""
    # All that can be wrong with the arguments and the data is checked before the model is loaded,
    # and its classes before it predicts. Under ``mlx.launch`` machines share the images, and the
    # first one measures.
    with machines() as team:
        return _run(args, team)


def _run(args: argparse.Namespace, team: First | Other) -> int:
    if team.size > 1:
        check_several(args)
    results, augment = _prepare(args), augmentation(args)
    if args.predictions:
        return _score_again(args)
    model, dataset = _opened(args, results)
    check_augmentation(model, augment)
    if getattr(model, "finds_objects", False):  # and has no classes to score
        return _recall(args, team, model, dataset)
    lines = difference(model.class_names, dataset.class_names)
    dataset = with_classes_of(model, dataset)
    dataset = attach(args, model, dataset, data_folder(args.data))
    if args.metric == "coco" and getattr(model, "needs_keypoints", False):
        check_keypoints(model, dataset)
    images = Images(args, team, model, dataset, augment)
    if not team.first:
        return images.help_first()
    _complain(dataset)
    other = _other(args, dataset)
    if results is not None:
        make_folders([results.parent])
    with kept_until_scored(results) as kept:
        collected = images.collect(kept)
        # The detections first: they are what took the time.
        try:
            write_results(kept, results_entries(collected, dataset.category_ids))
        except OSError as error:
            raise CommandError(f"cannot write {kept}: {error.strerror}", 1) from error
        images.written()
        found = _score(args, collected, kept)
        print("\n".join([*metrics_table(found, args.metric), *lines]))
        _report(args, (collected, dataset, found), other, kept)
        if args.json is not None and results is None:
            args.json.write(kept.read_text(encoding="utf-8"))
    if results is not None:
        print(f"results: {results}")
    return 0


def _recall(
    args: argparse.Namespace, team: First | Other, model: Detector, dataset: DetectionDataset
) -> int:
    """What of a proposal network there is to measure."""
    if team.size > 1:
        raise CommandError("a proposal network is measured by one machine: leave mlx.launch out")
    if args.report is not None:
        raise CommandError("--report goes with a model of classes: this one finds any object")
    _complain(dataset)
    return print_recall(args, model, dataset)


def _prepare(args: argparse.Namespace) -> Path | None:
    """What needs neither data nor model; the results file asked for, if one was."""
    results: Path | None = None
    if args.json is not None:
        if args.predictions:
            raise CommandError("--json goes with --model: --predictions is such a file already")
        args.json.check()
        results = args.json.file
    if args.metrics_json is not None:
        args.metrics_json.check("--metrics-json")
        if results is not None and args.metrics_json.path == results:
            raise CommandError(f"--json and --metrics-json {results}: expected two files")
    if args.resume and results is None:
        raise CommandError("--resume goes with --json FILE, beside which what is done is kept")
    if args.predictions and (args.tta_sizes or args.tta_flip):
        raise CommandError("--tta-sizes and --tta-flip go with --model")
    check_report(args)
    set_device(args.device)
    if args.metric == "coco":
        try:
            load_evaluator()
        except ImportError as error:
            raise CommandError(str(error)) from error
    return results


def _opened(args: argparse.Namespace, results: Path | None) -> tuple[Detector, DetectionDataset]:
    """The model, and the data with the masks it needs; the data is opened first."""
    dataset, problem = None, None
    try:
        dataset = _dataset(args)
    except CommandError as error:
        if not args.strict or args.metric != "coco":
            raise
        _dataset(args, masks=False)  # its own defects are an error for every model
        problem = error  # of masks or keypoints, of which a model of boxes makes nothing
    if dataset is not None:
        _check_not_data(args, results, dataset)
    model = load_model(args.model, args.dtype, model_settings(args))
    if not getattr(model, "needs_masks", True) and (dataset is None or dataset.masks):
        dataset = _dataset(args, masks=False)
    if dataset is None:
        raise problem or CommandError(f"{args.data} cannot be opened")
    return model, _readable(args, dataset.with_levels(model.config.image_levels))


def _readable(args: argparse.Namespace, dataset: DetectionDataset) -> DetectionDataset:
    """A dataset that has images; CommandError if none is left, or on defects with ``--strict``."""
    try:
        dataset = dataset.strict() if args.strict else dataset
    except ValueError as error:
        raise CommandError(one_line(error)) from error
    if not len(dataset):
        raise CommandError(f"{args.data}: no image can be used; {dataset.defects[0]}")
    return dataset


@contextmanager
def kept_until_scored(results: Path | None) -> Iterator[Path]:
    """Where detections are written before they are scored: the file asked for, or a temporary."""
    if results is not None:
        yield results
        return
    folder = Path(tempfile.mkdtemp(prefix="mlx_rcnn-"))  # nobody else's to write in
    kept, done = folder / "detections.json", False
    try:
        yield kept
        done = True
    finally:
        # removed once all is well, or nothing is in it
        if done or not (kept.exists() or unfinished_paths(kept)[0].exists()):
            shutil.rmtree(folder, ignore_errors=True)


def _score(args: argparse.Namespace, collected: Collected, kept: Path) -> Metrics:
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
    _check_not_data(args, None, dataset)
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
    other = _other(args, dataset)
    found = _score(args, collected, path)
    print("\n".join(metrics_table(found, args.metric)))
    _report(args, (collected, dataset, found), other, path)
    return 0


def _other(args: argparse.Namespace, dataset: DetectionDataset) -> Against:
    """What ``--against`` names: detections, or a model with the data in its labels, or nothing."""
    if args.against is None:
        return None
    if is_results(args.against):
        return results_against(args.against, dataset)
    try:
        model = load_model(args.against, args.dtype)
        if getattr(model, "finds_objects", False):
            raise CommandError("it finds objects of any class: expected a model of classes")
        check_augmentation(model, augmentation(args))
        own = _dataset(args, None if getattr(model, "needs_masks", True) else False)
        own = attach(args, model, with_classes_of(model, own), data_folder(args.data))
        if getattr(model, "needs_keypoints", False):
            check_keypoints(model, own)
    except CommandError as error:
        raise CommandError(f"--against {args.against}: {error}", error.code) from error
    return model, own


def _report(args: argparse.Namespace, measured: Measured, other: Against, kept: Path) -> None:
    """Write ``--metrics-json`` and ``--report``; if that fails, the detections are kept."""
    try:
        if args.metrics_json is not None:
            args.metrics_json.write_content(measured[2])
        if args.report is None:
            return
        if isinstance(other, tuple):
            model, own = other
            other = collect_alone(args, model, own, augmentation(args))
        collected, dataset, metrics = measured
        save_report(args, collected, dataset, metrics, other)
    except CommandError as error:
        text = f"{error}; the detections are kept: --predictions {kept} goes on from them"
        raise CommandError(text, error.code) from error


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
            levels="auto",  # until the model says which: none is left out for its values
        )
    except (OSError, ValueError) as error:
        raise CommandError(one_line(error)) from error


def _check_not_data(
    args: argparse.Namespace, results: Path | None, dataset: DetectionDataset
) -> None:
    """Refuse to write over what is read."""
    taken = {Path(args.data).resolve(), *(item.path.resolve() for item in dataset.items)}
    taken |= {Path(args.predictions).resolve()} if args.predictions else set()
    metrics = None if args.metrics_json is None else args.metrics_json.path
    for flag, path in (("--json", results), ("--metrics-json", metrics)):
        if path is not None and path.resolve() in taken:
            raise CommandError(f"{flag} {path} is part of the data: expected another file")


def _complain(dataset: DetectionDataset) -> None:
    for defect in dataset.defects[:_DEFECTS_SHOWN]:
        say_problem(defect)
    more = len(dataset.defects) - _DEFECTS_SHOWN
    if more > 0:
        say_problem(f"... and {more} more defects in the data")
