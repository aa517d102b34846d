"""The flags of ``mlx_rcnn benchmark``."""

from __future__ import annotations

from ...benchmark.cases import CASES
from .common import Commands, add_json, count


def add_benchmark(commands: Commands) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "benchmark",
        help="measure time and memory on this machine, beside torchvision where it is installed",
        description="Measure prediction, training steps, operations and a cold start on this "
        "machine, and print a Markdown table to send. Each case runs in a process of its own, with "
        "random weights, after a run that does not count. Where torch and torchvision are "
        "installed they do the same with the same weights, turn by turn.",
        epilog=f"cases: {', '.join(CASES)}. 'waits' is how often a run waits for the device, "
        "'ratio' the middle one of our time over torchvision's in the same round.",
        allow_abbrev=False,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="which (default: all)")
    parser.add_argument(
        "--rounds", type=count, default=5, help="timed runs of each (default: %(default)s)"
    )
    parser.add_argument(
        "--against",
        choices=("torchvision", "nothing"),
        help="compare with (default: torchvision if it is installed)",
    )
    add_json(parser, "file for all figures as JSON")
    parser.add_argument(
        "--growth",
        metavar="FILE",
        help="measure how cost grows with boxes, pixels, images and classes as well, and draw it "
        "as a PNG; needs pip install 'mlx-rcnn[plots]' (default: none)",
    )
