"""The arguments of every subcommand; light, so that ``--help`` stays quick."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NoReturn

from ..messages import nearest
from .errors import CommandError
from .flags.benchmark import add_benchmark
from .flags.common import (
    Commands,
    Flags,
    add_execution,
    add_json,
    add_levels,
    add_model,
    add_quiet,
    add_resume,
    count,
    fraction,
    seconds,
)
from .flags.convert import add_convert
from .flags.data import add_data_commands
from .flags.evaluate import add_evaluate
from .flags.export import add_export
from .flags.proposals import add_proposals
from .flags.serve import add_serve
from .flags.train import add_train
from .flags.view import add_augment, add_tiles


class _Parser(argparse.ArgumentParser):
    """Complains in one line, where argparse prints the whole usage first."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # As in Python 3.14: values may begin with a negative number, such as --levels -1000:400.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}{_meant(message)} (see {self.prog} --help)")


def _meant(message: str) -> str:
    """The choice that argparse's message is nearest to."""
    found = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message)
    if found is None:
        return ""
    return nearest(found[1], [word.strip(" '") for word in found[2].split(",")])


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; its arguments carry the subcommand as ``command``."""
    parser: argparse.ArgumentParser = _Parser(
        prog="mlx_rcnn",
        description="Two-stage detection of objects, their masks and keypoints on Apple's MLX.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mlx_rcnn {_version()}")
    # With prog= given: Python 3.14.0 puts colours into one that it makes up itself.
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, prog=parser.prog
    )
    _add_predict(commands)
    add_train(commands)
    add_evaluate(commands)
    add_convert(commands)
    add_export(commands)
    _add_info(commands)
    add_data_commands(commands)
    add_serve(commands)
    _add_doctor(commands)
    add_benchmark(commands)
    for leaf in _leaves(parser):
        add_quiet(leaf)
    _add_completion(commands)
    return parser


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of commands, and of those that a command has in it."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for inner in action.choices.values():
            yield from _leaves(inner)


def _add_predict(commands: Commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="detect objects in images and videos; write annotated pictures and COCO results",
        description="Detect objects in images and videos. Writes an annotated picture of each "
        "image and one COCO results file for all, and prints a table. Of a video it writes an "
        "annotated one, sound kept, and each detection with its frame and second, as JSON lines "
        "and CSV.",
        epilog="In the COCO results, image_id is the number for files named as COCO names them "
        "(000000000139.jpg is 139), and the path for all others; category_id is the model's label. "
        "Pictures keep the name of their image, with _2, _3, ... where two would be the same; "
        "images under 256 pixels are enlarged to be readable. Unreadable images are named and "
        "passed over; the exit code is then 1. Several machines share the images: mlx.launch ... "
        "mlx_rcnn predict ...",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="an image, a folder of images, a quoted glob pattern, or - for a list of these on "
        "standard input, one a line; or a video, a folder of videos, or the number of a camera, "
        "such as 0 (videos need pip install 'mlx-rcnn[video]')",
    )
    add_model(parser)
    add_proposals(parser)
    _add_choice_of_detections(parser.add_argument_group("what to keep"))
    outputs = parser.add_argument_group("what to write")
    _add_outputs(outputs)
    _add_saving(outputs)
    _add_video(parser.add_argument_group("videos and cameras"))
    execution = parser.add_argument_group("how to run")
    add_execution(execution)
    add_augment(execution)
    add_tiles(execution)
    add_levels(execution)


def _add_choice_of_detections(group: Flags) -> None:
    group.add_argument(
        "--score-thresh",
        type=fraction,
        metavar="X",
        help="a detection is dropped if it scores less, 0 to 1 (default: the model's own, usually "
        "0.05, in the results, and 0.5 in pictures and table)",
    )
    group.add_argument(
        "--nms-thresh",
        type=fraction,
        metavar="X",
        help="a box is dropped if its IoU with a better one of its class is more than this, 0 to 1 "
        "(default: the model's own, usually 0.5)",
    )
    group.add_argument(
        "--top-k",
        type=count,
        metavar="N",
        help="most detections kept per image (default: the model's own, usually 100)",
    )
    group.add_argument(
        "--classes",
        metavar="A,B",
        help="classes kept, names or numbers, separated by commas (default: all)",
    )


def _add_outputs(group: Flags) -> None:
    group.add_argument(
        "--out",
        default="predictions",
        metavar="DIR",
        help="folder for pictures and results, made if missing (default: ./predictions)",
    )
    add_json(group, "COCO results file", "detections.json in the --out folder")
    group.add_argument(
        "--no-images",
        action="store_true",
        help="write no pictures, only the results (default: write both)",
    )
    add_resume(group, "with the same arguments: predict the images that it lacks")


def _add_saving(group: Flags) -> None:
    group.add_argument(
        "--save",
        metavar="A,B",
        help="annotations for other tools and for training, in the --out folder: coco, voc, yolo, "
        "labelme, cvat; detections.csv: csv; the part of the image in each box: crops (default: "
        "none)",
    )
    group.add_argument(
        "--confidence",
        type=fraction,
        metavar="X",
        help="least score of what --save writes, 0 to 1 (default: 0.5)",
    )


def _add_video(group: Flags) -> None:
    group.add_argument(
        "--every",
        type=count,
        default=1,
        metavar="N",
        help="predict each N-th frame (default: 1, all)",
    )
    group.add_argument(
        "--from",
        dest="video_from",
        type=seconds,
        default=0.0,
        metavar="S",
        help="begin at so many seconds, or at M:S or H:M:S (default: 0)",
    )
    group.add_argument(
        "--to",
        dest="video_to",
        type=seconds,
        metavar="S",
        help="end before so many seconds (default: the end)",
    )


def _add_info(commands: Commands) -> None:
    parser = commands.add_parser(
        "info",
        help="describe a model: architecture, classes, parameters, dtype, source",
        description="Describe a model: architecture, classes, parameters of each part, dtype, and "
        "where its weights come from.",
        allow_abbrev=False,
    )
    add_model(parser)
    add_json(parser, "file for all of it, and the model's config, as JSON")


def _add_doctor(commands: Commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="check that everything is computed right on this machine",
        description="Compute every operation, a prediction and two training steps on this machine, "
        "and compare them with NumPy and with the CPU: the first thing to do when something looks "
        "wrong. Takes less than a minute; the exit code is 1 if anything is beyond its bound.",
        allow_abbrev=False,
    )
    add_json(parser, "file for the table as JSON")


def _add_completion(commands: Commands) -> None:
    parser = commands.add_parser(
        "completion",
        help="print a script by which a shell completes commands and flags",
        description="Print a script by which a shell completes this command's words; needs "
        "pip install 'mlx-rcnn[completion]'.",
        epilog='In ~/.bashrc: eval "$(mlx_rcnn completion bash)". In ~/.zshrc, after compinit: '
        'eval "$(mlx_rcnn completion zsh)". In config.fish: mlx_rcnn completion fish | source.',
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")


def _version() -> str:
    try:
        return metadata.version("mlx-rcnn")
    except metadata.PackageNotFoundError:
        return "(not installed)"
