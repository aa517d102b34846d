"""Flags that several subcommands have; light, so that ``--help`` stays quick."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias, TypeVar

from ...config.levels import read_levels
from ...config.settings import read_setting
from ..errors import CommandError
from ..json_file import JsonFile

MODEL_HELP = (
    "checkpoint file (.pth, .pkl), directory written by mlx_rcnn.save, name of published weights, "
    "or repository of the Hugging Face Hub (owner/name)"
)
DATA_FORMATS = ("voc", "coco", "yolo", "labelme", "cvat")
DATA_HELP = (
    "folder of VOC, COCO, YOLO, LabelMe or CVAT annotations, or their file: COCO JSON, data.yaml, "
    "CVAT XML"
)
STYLES = ("pytorch", "caffe")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""To which a command adds its parser."""
Flags: TypeAlias = argparse._ActionsContainer
"""A parser, or a group of its flags."""
Number = TypeVar("Number", int, float)


def add_model(parser: Flags, choice: Flags | None = None) -> None:
    """Add ``--model``, required or one of the group ``choice``, and what ``add_settings`` adds."""
    where = parser if choice is None else choice
    other = "" if choice is None else " (default: none)"
    where.add_argument(
        "--model", required=choice is None, metavar="MODEL", help=f"{MODEL_HELP}{other}"
    )
    add_settings(parser)


def add_data(parser: Flags) -> None:
    """Add ``--data``, ``--format``, ``--images`` and ``--strict``."""
    parser.add_argument("--data", required=True, metavar="PATH", help=DATA_HELP)
    parser.add_argument("--format", choices=DATA_FORMATS, help="of the data (default: recognised)")
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="folder that the names in a COCO or CVAT file count from (default: looked for)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="defects in the data are an error (default: left out)"
    )


def add_settings(parser: Flags) -> None:
    """Add the flags that say how a model is read: ``--set``, ``--state`` and ``--style``."""
    group = parser.add_argument_group("how to read the model")
    group.add_argument(
        "--set",
        action="append",
        type=_setting,
        dest="settings",
        metavar="FIELD=VALUE",
        help="a field of the model's config or of its backbone's, such as box_nms_thresh=0.4, "
        "norm_groups=4, anchor_sizes=(32,),(64,) or class_names=FILE; may be given several times "
        "(default: as the model says)",
    )
    group.add_argument(
        "--state",
        metavar="NAME",
        help="the key of the network to take where a checkpoint file holds several, such as ema "
        "(default: the only one, or that under the usual names)",
    )
    group.add_argument(
        "--style",
        choices=STYLES,
        help="of an mmdetection checkpoint that does not say it (default: by the config in the "
        "file or its name, else pytorch)",
    )


def model_settings(args: argparse.Namespace) -> dict[str, object]:
    """What :func:`add_settings` read, as keywords of ``load``: of a field twice the last value."""
    given = dict(args.settings or ())
    names = getattr(args, "class_names", None)  # --classes, where it names a model's classes
    if names is not None and "class_names" in given:
        raise CommandError("--classes and --set class_names: expected one of them")
    if getattr(args, "levels", None) is not None:
        given["image_levels"] = None if args.levels == "none" else args.levels
    others = {"state": args.state, "style": args.style, "class_names": names}
    return given | {name: value for name, value in others.items() if value is not None}


def add_class_names(parser: Flags) -> None:
    """Add ``--classes``, the names of the model's classes."""
    parser.add_argument(
        "--classes",
        dest="class_names",
        metavar="NAMES",
        help="names of the model's classes: a file with one a line, a JSON list or a JSON "
        "dictionary of id to name, or names between commas, with the background first or without "
        "it; or coco (default: the model's own)",
    )


def add_levels(parser: Flags, kept: str = "the model's own, usually none") -> None:
    """Add ``--levels``; ``kept`` says what holds by default."""
    parser.add_argument(
        "--levels",
        type=_levels,
        metavar="LOW:HIGH",
        help="values that are black and white in images of more than 8 bits, and in floats, such "
        "as 200:3000; percentiles of each image, such as 1%%:99%%; auto, which is 0.1%%:99.9%%; or "
        f"none, by each image's largest value (default: {kept})",
    )


def given_levels(args: argparse.Namespace) -> str | None:
    """What ``--levels`` says, ``None`` for none."""
    return None if args.levels == "none" else args.levels


def _levels(text: str) -> str:
    try:
        if text != "none":
            read_levels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_dtype(parser: Flags, stored: str = "the checkpoint's own") -> None:
    """Add ``--dtype``; ``stored`` says what is taken by default."""
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help=f"precision of convolutions and linears (default: {stored})",
    )


def add_execution(group: Flags) -> None:
    """Add ``--batch-size``, ``--dtype`` and ``--device``."""
    group.add_argument(
        "--batch-size",
        type=count,
        default=1,
        metavar="N",
        help="images predicted at once (default: 1)",
    )
    add_dtype(group, "the checkpoint's own, on a CPU float32")
    add_device(group)


def add_device(group: Flags) -> None:
    """Add ``--device``."""
    group.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        help="where to run (default: the GPU if there is one)",
    )


def add_resume(group: Flags, how: str) -> None:
    """Add ``--resume``; ``how`` says how it goes on."""
    group.add_argument(
        "--resume",
        action="store_true",
        help=f"go on with a run that ended early, {how} (default: begin anew)",
    )


def add_json(group: Flags, what: str, default: str = "none", name: str = "json") -> None:
    """Add ``--json``, or another flag of its kind, which says ``what`` is written."""
    group.add_argument(
        f"--{name}",
        type=JsonFile,
        metavar="FILE",
        help=f"{what}; - for standard output, with nothing else on it (default: {default})",
    )


def add_quiet(parser: Flags) -> None:
    """Add ``--quiet``."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="say nothing but warnings and errors, on standard error; files, and JSON that is "
        "asked for, are written all the same (default: tables, notes and bars of progress)",
    )


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    return _number(text, float, 0.0, 1.0, "a number from 0 to 1")


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _number(text, int, 1, float("inf"), "a whole number of at least 1")


def seconds(text: str) -> float:
    """Seconds, or minutes and hours before colons: ``90``, ``1:30``, ``0:01:30.5``."""
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = [-1.0]
    if len(values) > 3 or not all(0 <= value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} given, expected seconds, M:S or H:M:S")
    return sum(value * 60.0**i for i, value in enumerate(reversed(values)))


def _setting(text: str) -> tuple[str, object]:
    try:
        return read_setting(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _number(text: str, kind: Callable[[str], Number], low: float, high: float, rule: str) -> Number:
    value: Number | None = None
    with suppress(ValueError):
        value = kind(text)
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected {rule}")
    return value
