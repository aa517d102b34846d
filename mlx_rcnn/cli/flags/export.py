"""The flags of ``mlx_rcnn export``: light, so that ``--help`` stays quick."""

from __future__ import annotations

import argparse
import re

from .common import MODEL_HELP, Commands, add_class_names, add_dtype, add_settings, count, fraction


def add_export(commands: Commands) -> None:
    """Add the ``export`` subcommand."""
    parser = commands.add_parser(
        "export",
        help="write a model as a function file of MLX, for an app in C++ or Swift",
        description="Write a model as a function file of MLX (.mlxfn): the whole way from pixels "
        "to boxes, scores, labels, masks and keypoints, for an app in C++ or Swift, without "
        "Python. Names of classes and sizes are in its metadata, and in a file of JSON beside it. "
        "The function is read back and compared with what predict gives.",
        epilog="The function runs on the type of device it was made on, with the version of MLX "
        "that made it: export on a Mac for a Mac's GPU. docs/app.md has the programs. DEST is "
        "replaced if it exists.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("dest", metavar="DEST", help="file to write, which ends in .mlxfn")
    parser.add_argument(
        "--size",
        required=True,
        type=_sizes,
        metavar="HxW,HxW",
        help="height and width of the images that the app will give, in pixels, such as "
        "800x1088,640x640; of several sizes the weights are stored once",
    )
    kept = parser.add_argument_group("what to keep, for good")
    kept.add_argument(
        "--score-thresh",
        type=fraction,
        metavar="X",
        help="a detection is dropped if it scores less, 0 to 1 (default: the model's own, usually "
        "0.05)",
    )
    kept.add_argument(
        "--nms-thresh",
        type=fraction,
        metavar="X",
        help="a box is dropped if its IoU with a better one of its class is more than this, 0 to 1 "
        "(default: the model's own, usually 0.5)",
    )
    kept.add_argument(
        "--top-k",
        type=count,
        metavar="N",
        help="most detections of an image, rows of the outputs (default: the model's own, usually "
        "100)",
    )
    add_class_names(parser)
    add_dtype(parser, "the checkpoint's own; on a CPU computed in float32")
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        help="where the function will run (default: the GPU if there is one here)",
    )
    add_settings(parser)


def _sizes(text: str) -> list[tuple[int, int]]:
    """Sizes between commas."""
    found = [re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", part.strip()) for part in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(
            f"{text!r} given, expected HEIGHTxWIDTH in pixels, such as 800x1088 or 800x1088,640x640"
        )
    return [(int(match[1]), int(match[2])) for match in found if match]
