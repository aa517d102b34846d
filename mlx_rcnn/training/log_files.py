"""Loggers that write files of the run's folder: a table for spreadsheets, and TensorBoard's."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from importlib.util import find_spec

from ..files import replacing
from .loggers import Line, Logger, RunStart, flat, scalars

CSV_FILE, TENSORBOARD_FOLDER = "metrics.csv", "tensorboard"


class CsvLog(Logger):
    """``metrics.csv``: a row a step and an epoch, a column a number, empty where there is none."""

    def start(self, run: RunStart) -> None:
        """Write the rows so far."""
        # A resumed run begins it anew from its record, so that no step comes twice.
        self.path, self.lines = run.folder / CSV_FILE, list(run.lines)
        self._write()

    def log(self, line: Line) -> None:
        """Add a row; all are written again when a new column comes."""
        self.lines.append(line)
        row = flat(line)
        if row.keys() <= self.columns.keys():
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._text([row]))
        else:
            self._write()

    def _write(self) -> None:
        rows = [flat(line) for line in self.lines]
        names = ["kind", "step", "epoch", *(name for row in rows for name in row)]
        self.columns = dict.fromkeys(names)
        with replacing(self.path) as part:
            part.write_text(
                self._text([dict(zip(names, names, strict=True)), *rows]),
                encoding="utf-8",
                newline="",
            )

    def _text(self, rows: Iterable[dict[str, float | str]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue()


class TensorBoardLog(Logger):
    """Event files in ``tensorboard``; ``tensorboard --logdir RUN`` shows them."""

    # A resumed run adds a file that takes back the steps that come again.
    def __init__(self) -> None:
        if find_spec("tensorboardX") is None:
            raise ImportError(
                "log=tensorboard needs tensorboardX: pip install 'mlx-rcnn[tensorboard]'"
            )

    def start(self, run: RunStart) -> None:
        """Open a file; a run that was not logged here before is told from its start."""
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

        folder = run.folder / TENSORBOARD_FOLDER
        known = len(list(folder.iterdir())) if folder.is_dir() else 0
        after = max((line["step"] for line in run.lines), default=0) + 1
        # The time in a file's name is of whole seconds: one begun in the same would replace it.
        self.writer = SummaryWriter(
            str(folder),
            purge_step=after if known else None,
            flush_secs=10,
            filename_suffix=f".{known:03}",
        )
        for line in () if known else run.lines:
            self.log(line)
        self.writer.flush()

    def log(self, line: Line) -> None:
        """Add the line's numbers at its step."""
        for name, value in scalars(line).items():
            self.writer.add_scalar(name, value, line["step"])
        if line["kind"] == "epoch":
            self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


def file_loggers(names: Iterable[str]) -> list[Logger]:
    """The loggers that ``TrainConfig.log`` names; an ImportError if an extra is not installed."""
    kinds: dict[str, type[Logger]] = {"csv": CsvLog, "tensorboard": TensorBoardLog}
    return [kinds[name]() for name in dict.fromkeys(names) if name in kinds]
