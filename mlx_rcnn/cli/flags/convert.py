"""The flags of ``mlx_rcnn convert``: light, so that ``--help`` stays quick."""

from __future__ import annotations

from .common import MODEL_HELP, Commands, Flags, add_class_names, add_dtype, add_settings, count

LIBRARIES = ("torchvision", "detectron2", "mmdetection")
SUFFIXES = {
    "torchvision": (".pth", ".pt"),
    "detectron2": (".pkl", ".pth"),
    "mmdetection": (".pth",),
}
"""Of the file written for each library; a directory is written for ``mlx``."""


def add_convert(commands: Commands) -> None:
    """Add the ``convert`` subcommand."""
    parser = commands.add_parser(
        "convert",
        help="convert weights from and to torchvision, detectron2 and mmdetection",
        description="Convert weights of torchvision, detectron2 or mmdetection to a model "
        "directory for the other commands, or a model to weights for those libraries. None of "
        "them is needed. Converting there and back gives the same tensors, bit for bit.",
        epilog="A file for torchvision is read by torch.load(weights_only=True) and "
        "load_state_dict(strict=True), one for detectron2 by DetectionCheckpointer. What has to be "
        "set there is printed. The exit code is 1 if --verify finds a difference, or if writing "
        "or an upload fails.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SOURCE", help=MODEL_HELP)
    parser.add_argument(
        "dest",
        metavar="DEST",
        help="directory (--to mlx) or file (.pth, for detectron2 .pkl too) to write",
    )
    _add_kinds(parser)
    add_class_names(parser)
    add_dtype(parser)
    _add_quantize(parser)
    _add_writing(parser)
    add_settings(parser)


def _add_kinds(parser: Flags) -> None:
    """What the source is, and what is written."""
    parser.add_argument(
        "--from",
        dest="library",
        choices=("auto", *LIBRARIES),
        default="auto",
        help="library of the checkpoint (default: auto, from its keys and shapes)",
    )
    parser.add_argument(
        "--to",
        choices=("mlx", *LIBRARIES),
        default="mlx",
        help="library to write for (default: mlx, a directory with config.json, model.safetensors "
        "and a model card)",
    )
    parser.add_argument(
        "--arch",
        metavar="NAME",
        help="builder the checkpoint belongs to, such as fasterrcnn_mobilenet_v3_large_320_fpn, "
        "where keys and shapes cannot tell (default: recognised)",
    )
    parser.add_argument(
        "--num-classes",
        type=count,
        metavar="N",
        help="classes there must be, the background included (default: any)",
    )


def _add_quantize(parser: Flags) -> None:
    """How many bits the box head's weights get; the names are mlx_lm's."""
    parser.add_argument(
        "-q",
        "--quantize",
        action="store_true",
        help="store the weights of the box head's linear layers in a few bits, of a ResNet-50 with "
        "a pyramid a third of all; such a model predicts and is not trained (default: do not)",
    )
    parser.add_argument(
        "--q-bits",
        type=count,
        metavar="N",
        help="of a weight with --quantize, 4 or 8 (default: 8)",
    )
    parser.add_argument(
        "--q-group-size",
        type=count,
        metavar="N",
        help="weights that share a scale with --quantize: 32, 64 or 128 (default: 64)",
    )


def _add_writing(parser: Flags) -> None:
    """How it is written, and what then."""
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read the result again, compare every tensor with the source's, and run an image "
        "through both (default: do not)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace DEST if it exists (default: refuse)"
    )
    parser.add_argument(
        "--upload-repo",
        metavar="OWNER/NAME",
        help="then upload DEST to this repository of the Hugging Face Hub (default: do not)",
    )
