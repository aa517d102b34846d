"""``mlx_rcnn train``: from a data set and a model to a trained one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from ... import models
from ...checkpoints.backbone_weights import load_backbone
from ...checkpoints.start import start_from
from ...config.categories import class_names_of
from ...data.open import splits_of
from ...inputs.images import ImageError
from ...messages import one_line
from ...training.checkpoint import BEST, LAST, read_progress
from ...training.config import TrainConfig, flag, from_json
from ...training.run_folder import check_folder
from ...training.trainer import fit
from ...training.watch import watched
from ..errors import CommandError, load_model
from ..flags.common import model_settings
from ..flags.train import given_settings
from ..proposals import attach, data_folder
from ..said import say_problem
from .find_lr import look_for_rate

if TYPE_CHECKING:
    from ...data import DetectionDataset
    from ...models import Detector

_OF_DATA = ("num_classes", "num_keypoints")  # to which heads are made
_OF_FILES = ("state", "style", "class_names")
TRAIN, TRAINVAL, VAL = "train", "trainval", "val"
BUILDERS: dict[str, Callable[..., Detector]] = {
    build.__name__: build
    for build in (
        models.faster_rcnn_resnet_50_fpn,
        models.faster_rcnn_resnet_101_fpn,
        models.mask_rcnn_resnet_50_fpn,
        models.mask_rcnn_resnet_101_fpn,
        models.cascade_rcnn_resnet_50_fpn,
        models.cascade_rcnn_resnet_101_fpn,
        models.cascade_mask_rcnn_resnet_50_fpn,
        models.cascade_mask_rcnn_resnet_101_fpn,
        models.fast_rcnn_resnet_50_fpn,
        models.fast_rcnn_vgg_16,
        models.faster_rcnn_vgg_16,
        models.rcnn_alexnet,
        models.rcnn_vgg_16,
    )
}


def run(args: argparse.Namespace) -> int:
    """Train ``args.model`` on ``args.data``, all arguments checked before; 130 if interrupted."""
    try:
        with watched(mx.distributed.init()):  # before anything that may fail on one machine alone
            return _run(args)
    except ConnectionError as error:
        raise CommandError(one_line(error), 1) from error


def _run(args: argparse.Namespace) -> int:
    folder = Path(args.output)
    config = _config(args, folder)
    model = _model(args, folder, config)
    train_set, val_set = _data(args, model, config)
    if len(train_set.class_names) < 2:
        raise CommandError(f"{args.data} has no objects: expected some to learn from")
    if args.resume:
        _check_classes(folder, train_set.class_names)
    if args.find_lr is not None:
        return look_for_rate(args, model, train_set, val_set, config)
    try:
        summary = fit(
            model,
            train_set,
            val_set,
            config,
            folder,
            resume=args.resume,
            overwrite=args.overwrite,
            allow_overlap=args.allow_overlap,
        )
    except (FloatingPointError, ImageError, OSError) as error:
        raise CommandError(one_line(error), 1) from error
    except (ValueError, TypeError, ImportError) as error:
        raise CommandError(one_line(error)) from error
    if summary.interrupted:
        print(f"stopped after step {summary.step}; --resume goes on from {folder / LAST}")
        return 130
    kept = folder / (BEST if (folder / BEST).exists() else LAST)
    score = "" if summary.best is None else f", AP {summary.best:.4f}"
    print(f"trained {summary.step} steps; the best model is {kept}{score}")
    return 0


def _config(args: argparse.Namespace, folder: Path) -> TrainConfig:
    """The settings; those of a resumed run hold unless others are given."""
    given = given_settings(args)
    try:
        check_folder(folder, args.resume, args.overwrite)
        if args.resume:
            return replace(from_json(read_progress(folder).config), **given)
        return TrainConfig(**given)
    except FileExistsError as error:
        text = one_line(error).replace("resume it, overwrite it,", "give --resume, --overwrite,")
        raise CommandError(f"--output {text}") from error
    except OSError as error:
        raise CommandError(f"--output {one_line(error)}") from error
    except (ValueError, TypeError) as error:
        name, sign, rest = one_line(error).partition("=")
        known = sign and name in TrainConfig.__dataclass_fields__
        raise CommandError(f"{flag(name)} {rest}" if known else one_line(error)) from error


def _model(args: argparse.Namespace, folder: Path, config: TrainConfig) -> Detector:
    if args.backbone is not None and args.model not in BUILDERS:
        raise CommandError(
            f"--backbone goes with --model {' or '.join(BUILDERS)}; any other has its own"
        )
    if args.init is not None and args.model not in BUILDERS and not args.resume:
        raise CommandError(
            f"--init {args.init} goes with the name of a builder, such as --model "
            "mask_rcnn_resnet_50_fpn, that says what is made of it; to train it as it is, with new "
            f"heads for the data's classes, give --model {args.init} alone"
        )
    if args.init is not None and args.backbone is not None:
        raise CommandError("--init and --backbone: expected one of them, both fill the backbone")
    given = model_settings(args)
    if of_data := [name for name in _OF_DATA if name in given]:
        raise CommandError(f"--set {of_data[0]}: it is the data's, which the heads are made for")
    if args.resume and given:
        _check_settings(folder, given)
    if args.model is None:
        if not args.resume:
            raise CommandError("--model is missing: expected a file, a directory or a name")
        return load_model(str(folder / LAST))
    if args.model not in BUILDERS:
        return load_model(args.model, given=given)
    return _built(args, config, given)


def _built(args: argparse.Namespace, config: TrainConfig, given: dict[str, object]) -> Detector:
    """An untrained model, perhaps on a classifier's weights, or what fits of a detector's."""
    if args.init is not None:
        return _started(args, config, given)
    if of_files := [name for name in _OF_FILES if name in given]:
        raise CommandError(f"{of_files[0]} goes with a model that is loaded, not with a builder")
    mx.random.seed(config.seed)
    try:
        model = BUILDERS[args.model](**{**_usual(args.model, args.backbone is not None), **given})
    except (TypeError, ValueError) as error:
        raise CommandError(f"--model {args.model}: {one_line(error)}") from error
    if args.backbone is None:
        return model
    try:
        model.source = f"{args.model} on {load_backbone(model, args.backbone, classifier=False)}"
    except (OSError, ValueError) as error:
        raise CommandError(f"--backbone {args.backbone}: {one_line(error)}") from error
    return model


def _started(args: argparse.Namespace, config: TrainConfig, given: dict[str, object]) -> Detector:
    """A model that takes what fits from a detector of another kind."""
    reading = {name: given.pop(name) for name in _OF_FILES if name in given}
    found = load_model(args.init, given=reading)
    mx.random.seed(config.seed)
    try:
        model, taken = start_from(BUILDERS[args.model], found, **given)
    except (TypeError, ValueError) as error:
        raise CommandError(f"--init {args.init}: {one_line(error)}") from error
    print(f"{args.model} from {args.init}: {taken}")
    return model


def _usual(builder: str, pretrained: bool) -> dict[str, object]:
    """What a builder is given besides: batches of a few images are too small for batch norms."""
    if builder.endswith("_fpn"):
        return {"backbone_num_classes": 0, "norm": "frozen" if pretrained else "group"}
    return {"norm": "group"} if builder.endswith("_vgg_16") and not pretrained else {}


def _check_settings(folder: Path, given: dict[str, object]) -> None:
    """Refuse settings of a resumed run that are not those it was begun with."""
    model: Detector = load_model(str(folder / LAST))
    body = getattr(model.backbone, "config", None)
    for name, value in given.items():
        if name in ("state", "style"):
            continue
        recorded = getattr(model.config, name, getattr(body, name, None))
        if name == "class_names":
            try:
                value = class_names_of(str(value), model.config.num_classes)
            except (OSError, ValueError) as error:
                raise CommandError(f"--set class_names: {one_line(error)}") from error
        if value != recorded:
            raise CommandError(
                f"--resume: the run in {folder} has {name}={recorded!r}, got {value!r}: give a "
                "new run another --output"
            )


def _data(
    args: argparse.Namespace, model: Detector, config: TrainConfig
) -> tuple[DetectionDataset, DetectionDataset | None]:
    """The training set, and the validation set or ``None``."""
    from ...data import open_dataset, report

    options = {
        "masks": model.needs_masks,
        "keypoints": model.needs_keypoints,
        "strict": args.strict,
        "images": args.images,
        "levels": model.config.image_levels,
    }
    for name, path, split in (
        ("--split", args.data, args.split),
        ("--val-split", args.val_data or args.data, args.val_split),
    ):
        if split is not None and _is_one(Path(path), args.format):  # it would be the same data
            raise CommandError(f"{name} {split}: {path} is one file and has no splits")
    try:
        split = args.split or _train_split(args)
        train_set = open_dataset(args.data, args.format, split, **options)
        train_set = attach(args, model, train_set, data_folder(args.data))
        splits = train_set.splits
        print(report(train_set))
        names, val = train_set.class_names, args.val_split
        if args.val_data is None and val is None:
            if VAL not in splits or config.val_fraction:
                return train_set, None
            val = VAL
        val_set = open_dataset(
            args.val_data or args.data, args.format, val, class_names=names, **options
        )
        return train_set, attach(args, model, val_set, data_folder(args.val_data or args.data))
    except (OSError, ValueError, TypeError) as error:
        raise CommandError(one_line(error)) from error


def _is_one(path: Path, format: str | None) -> bool:
    """Whether data is a file without splits; what cannot be told is said when it is opened."""
    try:
        return path.is_file() and not splits_of(path, format)
    except (OSError, ValueError):
        return path.suffix.lower() == ".json"


def _train_split(args: argparse.Namespace) -> str | None:
    """The split to train on where none is named; ``None`` for data without splits."""
    root = Path(args.data)
    splits = splits_of(root, args.format) if root.exists() else ()
    if not splits or TRAIN in splits:
        return TRAIN if splits else None
    if TRAINVAL in splits:
        say_problem(f"{root} has no split {TRAIN}: trained on {TRAINVAL}")
        return TRAINVAL
    raise CommandError(
        f"{root} has no split {TRAIN}: it has {', '.join(splits)}; give --split to train on one"
    )


def _check_classes(folder: Path, class_names: tuple[str, ...]) -> None:
    old = read_progress(folder).class_names
    if tuple(old) != tuple(class_names):
        raise CommandError(
            f"--resume: the run in {folder} is of the classes {', '.join(old[1:])}; the data has "
            f"{', '.join(class_names[1:])}"
        )
