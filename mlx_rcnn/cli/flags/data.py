"""The flags of ``mlx_rcnn data``: light, so that ``--help`` stays quick."""

from __future__ import annotations

from dataclasses import fields

from ...training.config import TrainConfig
from .common import (
    DATA_FORMATS,
    DATA_HELP,
    MODEL_HELP,
    Commands,
    Flags,
    add_json,
    add_levels,
    add_settings,
    count,
    fraction,
)
from .train import add_field

_AUGMENTED = (
    "mosaic",
    "hflip",
    "vflip",
    "rotate90",
    "scale_jitter",
    "colour_jitter",
    "keypoint_pairs",
)


def add_data_commands(commands: Commands) -> None:
    """Add the ``data`` subcommand with its own ones."""
    parser = commands.add_parser(
        "data",
        help="check, count, draw, split or convert a data set",
        description="Work on a data set of VOC, COCO, YOLO, LabelMe or CVAT annotations.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, help="what to do", prog=parser.prog
    )
    _add_check(actions)
    _add_stats(actions)
    _add_draw(actions)
    _add_split(actions)
    _add_convert(actions)


def _add(actions: Commands, name: str, text: str, more: str, split: str = "everything") -> Flags:
    parser = actions.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}", allow_abbrev=False
    )
    parser.add_argument("path", metavar="PATH", help=DATA_HELP)
    parser.add_argument("--format", choices=DATA_FORMATS, help="of the data (default: recognised)")
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="folder that the names in a COCO or CVAT file count from (default: looked for)",
    )
    parser.add_argument("--split", metavar="NAME", help=f"this split alone (default: {split})")
    add_levels(parser, "none")
    return parser


def _add_check(actions: Commands) -> None:
    parser = _add(
        actions, "check", "list every defect", "The exit code is 1 if there are any, else 0."
    )
    parser.add_argument(
        "--masks",
        action="store_true",
        help="an object without an outline is a defect, as to a model of masks (default: it may "
        "have none)",
    )
    parser.add_argument(
        "--pixels",
        action="store_true",
        help="decode every image, which finds damage in its midst (default: its ends are looked "
        "at)",
    )
    add_json(parser, "file for the defects as JSON")


def _add_stats(actions: Commands) -> None:
    parser = _add(
        actions,
        "stats",
        "count classes, and compare box sizes with a model's anchors",
        "Prints tables, and anchor sizes that fit better as --set takes them; draws a picture if "
        "matplotlib is there (extra plots).",
    )
    parser.add_argument(
        "--model", metavar="MODEL", help=f"{MODEL_HELP} (default: a ResNet with FPN at 800 pixels)"
    )
    add_settings(parser)
    parser.add_argument(
        "--out",
        default="data_stats.png",
        metavar="FILE",
        help="the picture, a PNG (default: data_stats.png)",
    )
    add_json(parser, "file for the numbers as JSON")


def _add_draw(actions: Commands) -> None:
    parser = _add(
        actions,
        "draw",
        "draw images as training sees them, augmented, on one contact sheet",
        "Images are chosen evenly; the same seed gives the same sheet.",
    )
    parser.add_argument(
        "--out",
        default="data_sheet.png",
        metavar="FILE",
        help="the sheet, a PNG (default: data_sheet.png)",
    )
    parser.add_argument(
        "--count", type=count, default=16, metavar="N", help="most images (default: 16)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of what is random (default: 0)"
    )
    group = parser.add_argument_group("how images are changed, as in train")
    for item in fields(TrainConfig):
        if item.name in _AUGMENTED:
            add_field(group, item)


def _add_split(actions: Commands) -> None:
    parser = _add(
        actions,
        "split",
        "divide images into train, val and test",
        "Classes are shared out evenly, files of the same bytes stay together. Writes lists "
        "(VOC: ImageSets/Main; YOLO, LabelMe, CVAT: at the top) or, for COCO, a JSON file each.",
    )
    parser.add_argument(
        "--val-fraction",
        type=fraction,
        default=0.2,
        metavar="X",
        help="share of the images in val, 0 to 1 (default: 0.2)",
    )
    parser.add_argument(
        "--test-fraction",
        type=fraction,
        default=0.0,
        metavar="X",
        help="share of the images in test, 0 to 1 (default: 0, no such split)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the choice (default: 0)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace splits that are there (default: refuse)"
    )


def _add_convert(actions: Commands) -> None:
    parser = _add(
        actions,
        "convert",
        "write a data set in another format",
        "The folder is there with all in it, or not at all; what the format cannot hold is said.",
        "each, as splits of the new data",
    )
    parser.add_argument("to", choices=DATA_FORMATS, metavar="FORMAT", help=", ".join(DATA_FORMATS))
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="a folder that does not exist, or is empty"
    )
    parser.add_argument(
        "--image-files",
        choices=("copy", "link", "refer"),
        default="copy",
        help="images are copied, hard-linked, or referred to by their paths or symbolic links "
        "(default: copy)",
    )
    parser.add_argument(
        "--shapes",
        choices=("auto", "boxes", "polygons"),
        default="auto",
        help="of objects with an outline: the best the format has, boxes alone, or polygons and no "
        "RLE (default: auto)",
    )
