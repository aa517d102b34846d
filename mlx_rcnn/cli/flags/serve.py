"""The flags of ``mlx_rcnn serve``: light, so that ``--help`` stays quick."""

from __future__ import annotations

import argparse

from .common import Commands, Flags, add_device, add_dtype, add_model, count


def add_serve(commands: Commands) -> None:
    """Add the ``serve`` subcommand."""
    parser = commands.add_parser(
        "serve",
        help="a page and an HTTP server on this machine: drop a photo, get its detections",
        description="Serve a model on this machine: a page where a photo is dropped and its "
        "detections appear, POST /predict for programs (GET /schema says how), and Label Studio's "
        "ML backend. Needs pip install 'mlx-rcnn[serve]'. Ctrl-C answers what is queued, and ends.",
        epilog="No path and no URL in a request is ever opened. There is no password: beyond "
        "loopback, whoever reaches the port may use the model.",
        allow_abbrev=False,
    )
    add_model(parser)
    where = parser.add_argument_group("where to listen")
    where.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="address to listen on; 0.0.0.0 for all, for other machines to reach "
        "(default: 127.0.0.1, this machine alone)",
    )
    where.add_argument(
        "--port", type=_port, default=8000, metavar="N", help="0 for a free one (default: 8000)"
    )
    where.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name by which this server is reached, such as a proxy's; may be given "
        "several times (default: localhost, every address, and beyond loopback the machine's own)",
    )
    _add_limits(parser.add_argument_group("limits"))
    execution = parser.add_argument_group("how to run")
    execution.add_argument(
        "--batch-size",
        type=count,
        default=4,
        metavar="N",
        help="images predicted at once, of those that wait (default: 4)",
    )
    add_dtype(execution, "the checkpoint's own, on a CPU float32")
    add_device(execution)


def _add_limits(group: Flags) -> None:
    group.add_argument(
        "--max-size",
        type=count,
        default=64,
        metavar="MB",
        help="of a request; larger ones are refused (default: 64)",
    )
    group.add_argument(
        "--max-pixels",
        type=count,
        default=50,
        metavar="MP",
        help="millions of pixels of an image (default: 50)",
    )
    group.add_argument(
        "--queue",
        type=count,
        default=64,
        metavar="N",
        help="requests at once; further ones are told to come back, by 503 (default: 64)",
    )
    group.add_argument(
        "--timeout",
        type=count,
        default=60,
        metavar="S",
        help="seconds until a request is answered or given up (default: 60)",
    )


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a whole number from 0 to 65535")
    return int(text)
