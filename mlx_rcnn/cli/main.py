"""The command line: ``mlx_rcnn predict``, ``train``, ``evaluate``, ``convert`` and others."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from ..memory import reuse_large_blocks
from .arguments import build_parser
from .errors import CommandError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 1 if part of the work failed, 2 for arguments, 130 if interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name need not be text
            stream.reconfigure(errors="backslashreplace")
    try:
        args = build_parser().parse_args(argv)
        reuse_large_blocks()  # a process of our own: its memory is there for its arrays
        # Each command's module brings its heavy imports: --help answers without them.
        command = import_module(f".{args.command}", __package__)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code: int = command.run(args)
        sys.stdout.flush()
        return code
    except CommandError as error:
        print(f"mlx_rcnn: error: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("mlx_rcnn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"mlx_rcnn: warning: {' '.join(str(message).split())}", file=sys.stderr)
