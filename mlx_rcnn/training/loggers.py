"""Where a run's record goes besides metrics.jsonl: TensorBoard, W&B, MLflow, or your own function.

A logger is told each line of the record, a step's and an epoch's, by the first machine alone. One
that fails is left out from then on, with a warning: no run is lost for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..messages import one_line
from ..structures import Json
from .config import MAY_CHANGE

Line = Mapping[str, Any]
"""A line of metrics.jsonl: ``kind`` ("step" or "epoch"), ``step``, ``epoch`` and what was measured.
An epoch's ``metrics`` are a dict of their own, and what is not finite is ``None``."""


class RunStart(NamedTuple):
    """A run that begins, or goes on."""

    folder: Path
    settings: Mapping[str, Json]  # fields of its ``TrainConfig`` by name
    lines: Sequence[Line]  # of its record so far; none of a new run


class Logger:
    """Something that is told how a run goes; override what you need."""

    def start(self, run: RunStart) -> None:
        """Told once, before the first step.

        Args:
            run: its ``lines`` are those of the steps that a resumed run has taken; what was logged
                of later steps, before it was cut off, comes again.
        """

    def log(self, line: Line) -> None:
        """Told after each step and each epoch.

        Args:
            line: of metrics.jsonl, see :data:`Line`.
        """

    def close(self) -> None:
        """Told once, when the run ends, however it ends."""


class WandbLogger(Logger):
    """Tells a run of Weights & Biases, which stays yours: you start and finish it.

    >>> fit(model, data, loggers=[WandbLogger(wandb.init(project="cells"))])

    Args:
        run: of ``wandb.init``. W&B keeps what it knows of a step: a resumed run, begun with
            ``wandb.init(id=..., resume="must")``, doubles none.
    """

    def __init__(self, run: Any) -> None:
        self.run = run

    def start(self, run: RunStart) -> None:
        """Its config becomes the run's settings."""
        self.run.config.update(dict(run.settings), allow_val_change=True)

    def log(self, line: Line) -> None:
        """The line's numbers, at its step."""
        self.run.log(scalars(line), step=line["step"])


class MlflowLogger(Logger):
    """Tells MLflow's active run, which stays yours: you start and end it.

    >>> with mlflow.start_run():
    ...     fit(model, data, loggers=[MlflowLogger(mlflow)])

    Args:
        mlflow: the module, or anything with its ``log_params`` and ``log_metrics``.
    """

    def __init__(self, mlflow: Any) -> None:
        self.mlflow = mlflow

    def start(self, run: RunStart) -> None:
        """The settings become parameters, but for those that may change, as MLflow's never do."""
        fixed = {k: v for k, v in run.settings.items() if k not in MAY_CHANGE}
        self.mlflow.log_params(fixed)

    def log(self, line: Line) -> None:
        """The line's numbers, at its step."""
        self.mlflow.log_metrics(scalars(line), step=line["step"])


class _Function(Logger):
    """A function that takes a line."""

    def __init__(self, function: Callable[[Line], object]) -> None:
        self.function = function

    def log(self, line: Line) -> None:
        self.function(line)


class Loggers:
    """Several loggers, or functions of a :data:`Line`, as one that never fails."""

    def __init__(self, loggers: Iterable[Logger | Callable[[Line], object]] = ()) -> None:
        self._named: list[tuple[str, Logger]] = []
        for place, logger in enumerate(loggers):
            if isinstance(logger, type) or not (isinstance(logger, Logger) or callable(logger)):
                raise TypeError(
                    f"loggers[{place}]={logger!r}: expected a mlx_rcnn.training.Logger, or a "
                    "function that takes a line"
                )
            name = getattr(logger, "__qualname__", type(logger).__name__)
            self._named.append((name, logger if isinstance(logger, Logger) else _Function(logger)))

    def add(self, logger: Logger) -> None:
        """Add one."""
        self._named.append((type(logger).__name__, logger))

    def start(self, run: RunStart) -> None:
        """Tell all that a run begins."""
        self._tell(lambda logger: logger.start(run))

    def log(self, line: Line) -> None:
        """Tell all a line."""
        self._tell(lambda logger: logger.log(line))

    def close(self) -> None:
        """Tell all that the run has ended."""
        self._tell(lambda logger: logger.close())

    def _tell(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._named):
            try:
                call(logger)
            except Exception as error:
                self._named.remove((name, logger))
                warnings.warn(
                    f"the logger {name} failed and is left out, training goes on: "
                    f"{type(error).__name__}: {one_line(error)}",
                    stacklevel=3,
                )


def flat(line: Line) -> dict[str, float | str]:
    """A line without dicts in it: ``{"per_class": {"cat": {"AP": 1}}}`` is ``per_class/cat/AP``."""
    found: dict[str, float | str] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):  # ``metrics`` are its own entries
            start = "" if name == "metrics" else f"{name}/"
            found |= {f"{start}{inner}": v for inner, v in flat(value).items()}
        elif isinstance(value, int | float | str):  # lists, and what is ``None``, are left out
            found[name] = value
    return found


def scalars(line: Line) -> dict[str, float]:
    """The numbers of a line, named for a chart, such as ``train/lr`` or ``val/AP``."""
    found = {} if line["kind"] == "step" else _prefixed("val/", flat(line.get("metrics") or {}))
    rest = {k: v for k, v in line.items() if k not in ("metrics", "step", "epoch")}
    return found | _prefixed("train/" if line["kind"] == "step" else "epoch/", flat(rest))


def _prefixed(prefix: str, values: Mapping[str, float | str]) -> dict[str, float]:
    return {f"{prefix}{k}": float(v) for k, v in values.items() if not isinstance(v, str)}
