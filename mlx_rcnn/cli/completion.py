"""``mlx_rcnn completion``: what a shell needs to complete commands, flags and their values."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from .errors import CommandError

_FILES = ("DEST", "FILE", "MODEL", "PATH", "SOURCE", "WEIGHTS")
_FOLDERS = ("DIR",)


def run(args: argparse.Namespace) -> int:
    """Print the script; a CommandError if shtab is not installed."""
    try:
        import shtab
    except ImportError as error:
        raise CommandError("completion needs shtab: pip install 'mlx-rcnn[completion]'") from error
    from .arguments import build_parser

    parser = build_parser()
    for action in _actions(parser):
        if action.metavar in _FILES or action.metavar in _FOLDERS:
            kind = shtab.FILE if action.metavar in _FILES else shtab.DIRECTORY
            action.complete = kind  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
