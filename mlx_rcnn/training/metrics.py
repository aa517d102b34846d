"""What a run leaves to look at: metrics.jsonl, curves.png and pictures of predictions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data.protocols import Dataset
from ..evaluation.table import Scores
from ..files import replacing
from ..messages import nearest
from ..models import Detector
from .loggers import Line

METRICS_FILE, CURVES_FILE, SAMPLES_FOLDER = "metrics.jsonl", "curves.png", "samples"
SHOWN_SCORE = 0.5
Evaluate = Callable[[Detector, Dataset], Scores]


class Summary(NamedTuple):
    """What became of a run."""

    step: int  # optimizer steps taken
    epoch: int
    best: float | None
    metrics: Scores  # of the last evaluation
    interrupted: bool
    peak_memory: int  # in bytes


def coco_evaluation(batch_size: Callable[[], int], max_unreadable: float = 0.1) -> Evaluate | None:
    """COCO metrics of a model on a data set; ``None`` without faster-coco-eval (extra ``eval``)."""
    if find_spec("faster_coco_eval") is None:
        return None
    from ..evaluation import evaluate_coco

    # ``batch_size`` says how many images are predicted at once, when that is known
    return lambda model, dataset: evaluate_coco(
        model, dataset, batch_size=batch_size(), progress=False, max_unreadable=max_unreadable
    )


def metric_of(model: Detector) -> str:
    """The metric that says how good a model of this kind is."""
    if model.needs_keypoints:
        return "keypoints_AP"
    return "segm_AP" if model.needs_masks else "AP"


def check_metric(name: str | None, known: Iterable[str]) -> None:
    """Refuse a metric that an evaluation does not give, by a ValueError with the nearest name."""
    names = sorted(known)
    if name is not None and name not in names:
        raise ValueError(
            f"metric={name!r}: expected one of {', '.join(names)}{nearest(name, names)}"
        )


def deciding_score(scores: Scores, metric: str | None, usual: str) -> tuple[str, float | None]:
    """The metric that says which epoch is the best, and its value, ``None`` if not finite."""
    if scores:
        check_metric(metric, scores)
    # where an evaluation does not give the usual one, AP is taken
    name = metric or (usual if usual in scores else "AP")
    value = scores.get(name)
    return name, None if value is None or not math.isfinite(value) else float(value)


def epochs_without_better(scores: Iterable[float | None]) -> int:
    """How many epochs have passed since the best one; 0 if the last is better than all before."""
    best, passed = -math.inf, 0
    for score in scores:
        if score is not None and score > best:
            best, passed = score, 0
        else:
            passed += 1
    return passed


def coco_names(model: Detector) -> list[str]:
    """The metrics that COCO's evaluation gives of a model of this kind."""
    boxes = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    names = list(boxes)
    if model.needs_masks:
        names += [f"segm_{name}" for name in boxes]
    if model.needs_keypoints:
        names += [f"keypoints_A{k}{at}" for k in "PR" for at in ("", "50", "75", "m", "l")]
    return names


class Metrics:
    """The lines of ``metrics.jsonl``: one object a step, and one an epoch (``"kind"``)."""

    # Lines of later steps than ``step``, of work that was lost, are removed, and so is a line that
    # was cut short.
    def __init__(self, folder: Path, step: int = 0):
        self.path = folder / METRICS_FILE
        kept = [line for line in self.lines() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        with replacing(self.path) as part:
            part.write_text(text, encoding="utf-8")

    def lines(self) -> list[Line]:
        """All whole lines so far."""
        return read_lines(self.path) if self.path.is_file() else []

    def add(self, line: Mapping[str, object]) -> Line:
        """Append a line, and return it as it is there."""
        # what is not finite becomes ``null``, as JSON has no word for it
        plain = {k: _plain(v) for k, v in line.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")
        return plain

    def epochs(self) -> list[Line]:
        """The lines of the epochs so far."""
        return [line for line in self.lines() if line.get("kind") == "epoch"]

    def evaluated(self, epoch: int) -> bool:
        """Whether the line of an epoch, counted from 1, is there."""
        return any(line.get("epoch") == epoch for line in self.epochs())


def read_lines(path: Path) -> list[Line]:
    """The whole lines of a ``metrics.jsonl``; one that was cut short is passed over."""
    found: list[Line] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append(value)
    return found


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw_curves(metrics: Metrics) -> bool:
    """Draw ``curves.png``: losses and learning rate by step, metrics by epoch; whether it could."""
    if find_spec("matplotlib") is None:
        return False
    lines = metrics.lines()
    steps = [line for line in lines if line.get("kind") == "step"]
    epochs = [line for line in lines if line.get("kind") == "epoch" and "metrics" in line]
    figure = import_module("matplotlib.figure").Figure(figsize=(12, 4), layout="constrained")
    losses, rate, scores = figure.subplots(1, 3)
    for name in [key for key in (steps[-1] if steps else {}) if key.endswith("_loss")]:
        known = [(v["step"], v[name]) for v in steps if v.get(name) is not None]
        x, y = (np.array(column) for column in zip(*known, strict=True))
        losses.plot(x, smooth(y), label=name.removesuffix("_loss"))
    rate.plot([v["step"] for v in steps], [v["lr"] for v in steps])
    for name in ("AP", "AP50", "AP75", "segm_AP", "keypoints_AP"):
        known = [(v["epoch"], v["metrics"].get(name)) for v in epochs]
        known = [pair for pair in known if pair[1] is not None]
        if known:
            scores.plot(*zip(*known, strict=True), marker="o", label=name)
    for axes, title, label in (
        (losses, "losses", "step"),
        (rate, "learning rate", "step"),
        (scores, "validation", "epoch"),
    ):
        axes.set(title=title, xlabel=label)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    with replacing(metrics.path.with_name(CURVES_FILE)) as part:
        figure.savefig(part, format="png", dpi=100)
    return True


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean of each value and up to 19 before it."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - 20, 0)
    means: np.ndarray = (sums[end] - sums[start]) / (end - start)
    return means
