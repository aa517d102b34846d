"""The flags of ``mlx_rcnn evaluate``: light, so that ``--help`` stays quick."""

from __future__ import annotations

from .common import (
    Commands,
    Flags,
    add_class_names,
    add_data,
    add_execution,
    add_json,
    add_levels,
    add_model,
    add_resume,
    fraction,
)
from .proposals import add_proposals
from .view import add_augment


def add_evaluate(commands: Commands) -> None:
    """Add the ``evaluate`` subcommand."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on a data set",
        description="Measure a model on annotated images: average precision, in all and for each "
        "class, and images per second.",
        epilog="Classes are matched by name: the data may have fewer than the model, never others. "
        "What is wrong in the data is named and left out. In the results file, image_id and "
        "category_id are the data's own (VOC: the image's name, and the model's label). Several "
        "machines share the images: mlx.launch ... mlx_rcnn evaluate ...",
        allow_abbrev=False,
    )
    add_data(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    add_model(parser, what)
    what.add_argument(
        "--predictions",
        metavar="FILE",
        help="score the detections of a COCO results file, such as an earlier --json, in place of "
        "a model's (default: none)",
    )
    add_class_names(parser)
    on = parser.add_argument_group("what to measure on")
    _add_data(on)
    add_proposals(on)
    _add_metric(parser.add_argument_group("what to measure"))
    _add_report(parser.add_argument_group("a report to read"))
    execution = parser.add_argument_group("how to run")
    add_execution(execution)
    add_augment(execution)
    add_levels(execution)


def _add_data(group: Flags) -> None:
    group.add_argument(
        "--split",
        metavar="NAME",
        help="the split, such as test (default: all, the only JSON file of COCO)",
    )
    group.add_argument(
        "--max-unreadable",
        type=fraction,
        default=0.1,
        metavar="X",
        help="share of the images, 0 to 1, that may turn out unreadable and be left out; more stop "
        "the evaluation (default: 0.1)",
    )


def _add_metric(group: Flags) -> None:
    group.add_argument(
        "--metric",
        choices=("coco", "voc07", "voc"),
        default="coco",
        help="coco: AP at IoU 0.50:0.95, of boxes, masks and keypoints; voc07: 11-point AP at 0.5; "
        "voc: area AP at 0.5, since 2010 (default: coco)",
    )
    group.add_argument(
        "--score-thresh",
        type=fraction,
        metavar="X",
        help="detections that score less are left out, 0 to 1 (default: what --set "
        "box_score_thresh says, else 0.05)",
    )
    add_json(group, "COCO results file to write")
    add_json(group, "file for the metrics as JSON", name="metrics-json")
    add_resume(group, "with the same arguments and --json: predict the images that it lacks")


def _add_report(group: Flags) -> None:
    group.add_argument(
        "--report",
        metavar="DIR",
        help="folder for index.html, one page with AP, precision and recall at the best threshold "
        "and their curves by class, a confusion matrix, what each kind of error costs, and the "
        "worst images; and the same as report.json (default: none)",
    )
    group.add_argument(
        "--against",
        metavar="OTHER",
        help="another model, or a results file of an earlier --json, that the report compares "
        "with: --set, --classes, --state and --style are of --model alone (default: none)",
    )
