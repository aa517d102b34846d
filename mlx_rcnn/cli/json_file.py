"""Where ``--json`` writes: a file, or standard output with nothing else on it."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TextIO

from ..files import is_opened, replacing
from .errors import CommandError
from .preflight import check_writable, make_folders

STDOUT = "-"
_NAMES = (STDOUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class JsonFile:
    """What a flag such as ``--json`` names."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.path = None if text in _NAMES else Path(text)
        """``None``: standard output."""
        self._stream = sys.stdout  # as it is when the command line is read

    @property
    def file(self) -> Path | None:
        """The path of a file, beside which others may lie; ``None``: it is a stream."""
        return None if self.path is None or is_opened(self.path) else self.path

    def __str__(self) -> str:
        return self.text if self.path is not None else "standard output"

    def check(self, flag: str = "--json") -> None:
        """Refuse what cannot be written, before work starts."""
        if self.path is None:
            if self._stream is None:
                raise CommandError(f"{flag} {self.text}: standard output is closed")
        elif self.path.is_dir():
            raise CommandError(f"{flag} {self.text or repr('')} is a folder: expected a file")
        elif self.file is not None:
            check_writable(self.path.parent)
        elif not os.access(self.path, os.W_OK):
            raise CommandError(f"{flag} {self.text} cannot be written to")

    def write(self, text: str) -> None:
        """Write all of it at once; folders of a file that are missing are made."""
        try:
            if self.path is None:
                self._stream.write(text)
                self._stream.flush()
                return
            if self.file is not None:
                make_folders([self.path.parent])
            with replacing(self.path) as part:
                part.write_text(text, encoding="utf-8")
        except BrokenPipeError:  # nobody reads it: no error to tell of
            raise
        except OSError as error:
            if self.path is None:
                give_up(self._stream)
            raise CommandError(f"cannot write {self}: {error.strerror}", 1) from error

    def write_content(self, content: object) -> None:
        """:meth:`write` what JSON can hold; a number that is not finite becomes ``null``."""
        self.write(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def give_up(stream: TextIO | None) -> None:
    """Send what a stream still holds to nothing: Python would try once more to write it."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def left_alone(args: argparse.Namespace) -> Iterator[None]:
    """Send what is printed to standard error where standard output is for JSON alone."""
    files = {name: value for name, value in vars(args).items() if isinstance(value, JsonFile)}
    taken = [f"--{name.replace('_', '-')} {STDOUT}" for name, f in files.items() if f.path is None]
    if len(taken) > 1:
        raise CommandError(f"{' and '.join(taken)}: expected one of them")
    if not taken:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield
