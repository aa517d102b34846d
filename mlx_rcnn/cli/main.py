"""The command line: ``mlx_rcnn predict``, ``train``, ``evaluate``, ``convert`` and others."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from errno import ENOSPC
from importlib import import_module

from ..memory import reuse_large_blocks
from ..progress import silent
from .arguments import build_parser
from .errors import CommandError
from .json_file import give_up, left_alone
from .said import say_error, say_problem, say_warning


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 1 if part of the work failed, 2 for arguments, 130 if interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name need not be text
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(argv)
        finally:  # of --help and --version, too, which raise SystemExit
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as head, has left
        give_up(sys.stdout)
        return 1
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        give_up(sys.stdout)
        say_error(f"cannot write: {error.strerror}")
        return 1


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(argv)
        reuse_large_blocks()  # a process of our own: its memory is there for its arrays
        # Each command's module brings its heavy imports: --help answers without them.
        command = import_module(f".{args.command}", __package__)
        with _told(args):
            code: int = command.run(args)
        return code
    except CommandError as error:
        say_error(error)
        return error.code
    except KeyboardInterrupt:
        say_problem("interrupted")
        return 130


@contextmanager
def _told(args: argparse.Namespace) -> Iterator[None]:
    """What is printed, and warnings, go where ``--quiet`` and ``--json -`` want them."""
    with ExitStack() as stack:
        stack.enter_context(left_alone(args))
        if getattr(args, "quiet", False):
            nothing = stack.enter_context(open(os.devnull, "w", errors="backslashreplace"))
            stack.enter_context(redirect_stdout(nothing))
            stack.enter_context(silent())
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say_warning(" ".join(str(message).split()))
