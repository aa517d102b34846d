"""The flags of ``mlx_rcnn train``: light, so that ``--help`` stays quick."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

from ...training.config import CHOICES, WORDS, TrainConfig, flag
from .common import MODEL_HELP, Commands, Flags, add_data, add_levels, add_settings, count
from .proposals import add_proposals


def add_train(commands: Commands) -> None:
    """Add the ``train`` subcommand."""
    parser = commands.add_parser(
        "train",
        help="train or fine-tune a model on a data set",
        description="Train a model on a data set of VOC, COCO, YOLO, LabelMe or CVAT. Its heads "
        "are made new for the data's classes, and its keypoints, unless it has them already.",
        epilog="Ctrl-C finishes the step, saves, and exits with code 130; --resume goes on from "
        "there as if nothing had happened. DIR/last and DIR/best are models for the other "
        "commands. On several machines: mlx.launch ... mlx_rcnn train ...",
        allow_abbrev=False,
    )
    add_data(parser)
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="trained on (default: train, else trainval; all of data without splits)",
    )
    parser.add_argument("--val-data", metavar="PATH", help="evaluated each epoch (default: --data)")
    parser.add_argument(
        "--val-split", metavar="NAME", help="evaluated each epoch (default: val, if there)"
    )
    parser.add_argument(
        "--allow-overlap",
        action="store_true",
        help="images may be both trained and validated on (default: an error)",
    )
    _add_start(parser)
    add_proposals(parser)
    parser.add_argument("--output", default="run", metavar="DIR", help="of the run (default: run)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="go on with the run in DIR (default: start one)"
    )
    again.add_argument(
        "--overwrite", action="store_true", help="remove the run in DIR first (default: refuse)"
    )
    parser.add_argument(
        "--find-lr",
        type=count,
        nargs="?",
        const=100,
        metavar="STEPS",
        help="train nothing: take at most so many steps at rates from 1e-6 to 10 (100), print a "
        "learning rate to begin with, and write DIR/lr_finder.json (default: train)",
    )
    add_settings(parser)
    add_levels(parser, "the model's own; kept with the model that is trained")
    group = parser.add_argument_group("how to train")
    for item in fields(TrainConfig):
        add_field(group, item)


def _add_start(parser: Flags) -> None:
    """Add the flags that say what training starts from."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=f"{MODEL_HELP}; or the name of a builder, such as faster_rcnn_resnet_50_fpn, to train "
        "from scratch (default: none, or the run's own with --resume)",
    )
    parser.add_argument(
        "--backbone",
        metavar="WEIGHTS",
        help="start the backbone of a builder from a classifier: file or directory of torchvision, "
        "timm or transformers, or a name such as resnet50 (default: none, random weights)",
    )
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="start a builder from a detector of another kind, such as a Mask R-CNN from a Faster "
        "R-CNN: its backbone, settings and the heads that fit; for the same kind with other "
        "classes --model alone is enough (default: none)",
    )


def add_field(group: Flags, item: Field[object]) -> None:
    """Add the flag of one field; what it reads is ``None`` when it is not given."""
    assert item.default is not MISSING
    default = item.default
    text = item.metadata["help"].replace("%", "%%")
    if item.type == "bool":
        text = f"{text} (default: do not)"
    elif default is not None:
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{text} (default: {shown})"
    name, dest = flag(item.name), f"train_{item.name}"
    if item.type == "bool":
        group.add_argument(name, help=text, dest=dest, action="store_const", const=True)
    elif item.name in CHOICES and not isinstance(default, tuple):
        group.add_argument(name, help=text, dest=dest, choices=CHOICES[item.name])
    else:
        read = _reader(str(item.type), WORDS.get(item.name))
        group.add_argument(name, help=text, dest=dest, type=read, metavar="N")


def _reader(kind: str, word: str | None = None) -> Callable[[str], object]:
    if "str" in kind and word is None:
        return (lambda text: tuple(text.split(","))) if kind.startswith("tuple") else str
    number: Callable[[str], float] = int if "int" in kind else float
    several = kind.startswith("tuple")
    rule = "a whole number" if number is int else "a number"

    def read(text: str) -> object:
        if text == word:
            return text
        try:
            values = tuple(number(part) for part in (text.split(",") if several else [text]))
        except ValueError:
            more = ", or several separated by commas" if several else ""
            more = f" or {word}" if word else more
            raise argparse.ArgumentTypeError(f"{text!r} given, expected {rule}{more}") from None
        return values if several else values[0]

    return read


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of :class:`TrainConfig` that the command line sets, by name."""
    values = {item.name: getattr(args, f"train_{item.name}", None) for item in fields(TrainConfig)}
    return {name: value for name, value in values.items() if value is not None}
