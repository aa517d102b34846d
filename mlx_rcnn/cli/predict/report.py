"""What ``predict`` prints of images: a table, counts and speed."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...tables import display_width, pad
from ..json_file import JsonFile
from ..said import say_problem
from .choice import SHOWN_SCORE

if TYPE_CHECKING:
    from ...structures import Entry
    from ..pages import Source

_ROWS_SHOWN = 30
_CLASSES_SHOWN = 3


@dataclass
class Done:
    """What a run has produced."""

    entries: list[Entry] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    proposed: list[tuple[Path, dict[str, np.ndarray]]] = field(default_factory=list)
    proposals: Path | None = None  # where they are written
    failed: int = 0
    model_seconds: float = 0.0
    fresh: int = 0  # images that this process has seen done
    idle: float | None = None  # share of the time in which the network waited


def shown_score(args: argparse.Namespace) -> float:
    """The least score in pictures and in the table."""
    return SHOWN_SCORE if args.score_thresh is None else args.score_thresh


def table_row(
    args: argparse.Namespace,
    path: Path,
    image: Source,
    prediction: Mapping[str, np.ndarray],
    names: tuple[str, ...] | None,
) -> tuple[str, ...]:
    """The line of an image in the table."""
    shown = prediction["labels"][prediction["scores"] >= shown_score(args)].tolist()
    counts = Counter(shown).most_common()
    text = ", ".join(
        f"{names[label] if names else f'class {label}'} {count}"
        for label, count in counts[:_CLASSES_SHOWN]
    )
    more = ", ..." if len(counts) > _CLASSES_SHOWN else ""
    size = f"{image.shape[1]}x{image.shape[0]}"
    return str(path), size, str(len(prediction["labels"])), str(len(shown)), text + more


def _waited(done: Done) -> str:
    """How long the network waited for images and for what is made of its results."""
    if done.idle is None or done.fresh < 2:  # of one image nothing is done at the same time
        return ""
    return f"; the network waited {100 * done.idle:.1f} % of the time"


def report(args: argparse.Namespace, done: Done, results: JsonFile, seconds: float) -> None:
    """Print the table, and where the results are."""
    score = f"score >= {shown_score(args):g}"
    table = [("image", "size", "detections", score, "classes"), *done.rows[:_ROWS_SHOWN]]
    if args.score_thresh is not None:  # then the two counts are the same
        table = [(*row[:3], row[4]) for row in table]
    widths = [max(map(display_width, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            pad(cell, width, right=head in ("size", "detections", score))
            for cell, width, head in zip(row, widths, table[0], strict=True)
        ]
        print("  ".join(cells).rstrip())
    count = len(done.rows)
    if count > _ROWS_SHOWN:
        print(f"... and {count - _ROWS_SHOWN} more")
    if count:
        print(
            f"\n{count} image{'s' * (count > 1)}, {len(done.entries)} detections; images per "
            f"second: {count / done.model_seconds:.2f} model, {done.fresh / seconds:.2f} in all"
            + _waited(done)
        )
        if not args.no_images:
            print(f"pictures: {args.out} ({score})")
    print(f"results: {results}")
    if done.proposals is not None:
        print(f"proposals: {done.proposals}")
    if done.failed:
        say_problem(f"{done.failed} failed, named above")
