"""Results on the disk while a command is at work: a file of lines, from which ``--resume`` goes on.

A line is a batch of images, written once all of it is done. A process killed at any moment leaves
whole lines, and at most a part of one, which is cut off.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ...checkpoints.weights import add_to_digest, flatten
from ...files import replacing
from ..errors import CommandError

if TYPE_CHECKING:
    from ...models import Detector
    from .first_machine import Found

_FORMAT = 1
# Of the command line: what does not change results, or is compared by what it stands for.
_PASSED_OVER = {
    *("command", "resume", "json", "metrics_json", "quiet"),
    *("model", "source", "data", "max_unreadable"),
}

_FLAGS = {"settings": "set", "class_names": "classes"}


Line: TypeAlias = dict[str, Any]
"""Of the file: what the run is about, a batch, or what was written."""


class About(NamedTuple):
    """What must be equal for a run to go on: ``settings`` by flag, ``images``, ``weights``."""

    settings: dict[str, object]
    images: list[str]
    weights: list[str]


class Unfinished:
    """The file of a run that is not finished, beside that of its results."""

    def __init__(self, results: Path, about: About, resume: bool) -> None:
        self.path, self.missing = unfinished_paths(results)
        self.about: Line = {"format": _FORMAT, **about._asdict()}
        self.found: dict[int, Found] = {}
        """Of each batch that is done, what was found."""
        self.written: set[str] = set()
        """What ``--save`` names and was written though images were missing."""
        self.turn = 1
        """How many processes have worked on it, with this one."""
        self._began = resume
        if resume:
            self._read()

    def add(self, batch: int, found: Found) -> None:
        """Keep a batch; a CommandError if the disk is full, or fails."""
        self.found[batch] = found
        self._append({"batch": batch, "turn": self.turn, **found})

    def note(self, written: Sequence[str]) -> None:
        """Keep that these folders of ``--save`` are written, and lack images."""
        self._append({"written": list(written)})

    def older_than(self, folder: Path) -> bool:
        """Whether something in a folder was changed since this was."""
        own = self.path.stat().st_mtime_ns
        return any(path.stat().st_mtime_ns > own for path in folder.rglob("*"))

    def list_missing(self, names: Sequence[str]) -> None:
        """Write the images that are missing, one a line."""
        try:
            with replacing(self.missing) as part:
                text = "".join(f"{name}\n" for name in names)
                part.write_bytes(text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise CommandError(f"cannot write {self.missing}: {error.strerror}", 1) from error

    def finish(self) -> None:
        """Remove it: all is done."""
        for path in (self.path, self.missing):
            path.unlink(missing_ok=True)

    def _append(self, line: Line) -> None:
        try:
            with self.path.open("ab" if self._began else "wb") as file:
                if not self._began:  # not before there is something to keep
                    file.write(_line(self.about))
                self._began = True
                file.write(_line(line))
        except OSError as error:
            raise CommandError(f"cannot write {self.path}: {error.strerror}", 1) from error

    def _read(self) -> None:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError as error:
            raise CommandError(
                f"--resume: there is no {self.path}: no run with these results was cut short"
            ) from error
        except OSError as error:
            raise CommandError(f"--resume: cannot read {self.path}: {error.strerror}") from error
        whole = content[: content.rfind(b"\n") + 1]
        try:
            about, *lines = [json.loads(line) for line in whole.splitlines()] or [{}]
            self._check(about)
            for line in lines:
                self.written = set(line.get("written", self.written))
                if "batch" in line:
                    self.found[line["batch"]] = line
                    self.turn = max(self.turn, line["turn"] + 1)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CommandError(f"--resume: {self.path} is damaged: {error}") from error
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))

    def _check(self, about: Line) -> None:
        begun, now = _as_read(about), _as_read(self.about)
        if begun.get("format") != _FORMAT:
            raise CommandError(f"--resume: {self.path} is of another version of mlx_rcnn")
        odd = sorted(k for k in begun.keys() | now.keys() if begun.get(k) != now.get(k))
        if not odd:
            return
        if "settings" in odd:
            then, mine = begun["settings"], now["settings"]
            name = min(k for k in then.keys() | mine.keys() if then.get(k) != mine.get(k))
            what = f"{_as_flag(name, then.get(name))}, now {_as_flag(name, mine.get(name))}"
        else:
            what = " and ".join(f"other {name}" for name in odd)
        raise CommandError(
            f"--resume: the run in {self.path} was begun with {what}: without --resume it is begun "
            "again"
        )


def unfinished_paths(results: Path) -> tuple[Path, Path]:
    """Where the lines are kept beside the file of results, and the list of what is missing."""
    return results.with_suffix(".partial.jsonl"), results.with_suffix(".missing.txt")


def described(args: argparse.Namespace, images: Sequence[str], model: Detector) -> About:
    """What must be equal for a run to go on, or to be shared."""
    settings = {k: v for k, v in vars(args).items() if k not in _PASSED_OVER and v is not None}
    return About(settings, list(images), [_digest(model)])


def _digest(model: Detector) -> str:
    """Of the same settings and weights always the same."""
    digest = hashlib.blake2b(repr(getattr(model, "config", None)).encode(), digest_size=16)
    if hasattr(model, "parameters"):
        add_to_digest(digest, flatten(model.parameters()))
    return digest.hexdigest()


def _as_flag(name: str, value: object) -> str:
    flag = f"--{_FLAGS.get(name, name).replace('_', '-')}"
    if value is True:
        return flag
    return f"no {flag}" if value is None or value is False else f"{flag} {value}"


def _as_read(about: Line) -> Line:
    """As JSON gives it back: of tuples lists, of other things their text."""
    read: Line = json.loads(json.dumps(about, default=str))
    return read


def _line(content: Line) -> bytes:
    return json.dumps(content, default=str).encode() + b"\n"
