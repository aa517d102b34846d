"""``evaluate --report``: what can be wrong with it before work starts, and the writing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeAlias

from ...data import DetectionDataset
from ...evaluation import Collected, read_results, write_report
from ...evaluation.report.write import PAGE, check_replaceable
from ...messages import one_line
from ..errors import CommandError
from ..preflight import check_writable

Metrics: TypeAlias = dict[str, Any]
"""Numbers by name, and rows of them by class."""


def check_report(args: argparse.Namespace) -> None:
    """Refuse a report that cannot be written, or not of what is measured."""
    if args.report is None:
        if args.against is not None:
            raise CommandError("--against goes with --report DIR, where the comparison is written")
        return
    if args.metric != "coco":
        raise CommandError(f"--report goes with --metric coco: --metric {args.metric} given")
    folder = Path(args.report)
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"--report {folder} is a file: expected a folder")
    data = Path(args.data).resolve()
    if folder.resolve() == (data.parent if data.is_file() else data):
        # Beside annotations report.json would be taken for some.
        raise CommandError(f"--report {folder} is the folder of the data: expected another")
    try:
        check_replaceable(folder)
    except OSError as error:
        raise CommandError(f"--report {one_line(error)}") from error
    check_writable(folder)


def is_results(source: str) -> bool:
    """Whether ``--against`` names a results file; a model is a folder, a checkpoint or a name."""
    path = Path(source)
    return path.suffix.lower() == ".json" and not path.is_dir()


def results_against(source: str, dataset: DetectionDataset) -> Collected:
    """The detections to compare with, from a file; CommandError if they are of other data."""
    try:
        return read_results(Path(source), dataset)
    except OSError as error:
        raise CommandError(f"--against {source}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"--against {one_line(error)}") from error


def save_report(
    args: argparse.Namespace,
    collected: Collected,
    dataset: DetectionDataset,
    metrics: Metrics,
    against: Collected | None,
) -> None:
    """Write the report, and say where."""
    data = args.data if args.split is None else f"{args.data}, {args.split}"
    names = args.model or args.predictions, args.against or "other"
    try:
        write_report(
            args.report,
            collected,
            dataset,
            names=names,
            data=str(data),
            against=against,
            metrics=metrics,
        )
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise CommandError(f"cannot write --report {args.report}: {reason}", 1) from error
    except ValueError as error:  # images that the other model could not read
        raise CommandError(f"--report: {one_line(error)}", 1) from error
    print(f"report: {Path(args.report) / PAGE}")
