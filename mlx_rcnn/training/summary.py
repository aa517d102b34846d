"""``summary.html``: a run on one page, which needs no network and no other file."""

from __future__ import annotations

import io
import json
import os
import platform
from importlib import metadata
from pathlib import Path

from PIL import Image

from ..data.protocols import SizedDataset
from ..data.report import report
from ..files import replacing
from ..models import Detector
from ..structures import Json
from .loggers import Line, Logger, RunStart
from .metrics import METRICS_FILE, SAMPLES_FOLDER, metric_of, read_lines
from .pictures import contact_sheet
from .summary_page import page

SUMMARY_FILE, ABOUT_FILE, TARGETS_FILE = "summary.html", "run.json", "targets.png"


class SummaryPage(Logger):
    """Writes ``summary.html`` when the run begins, after each epoch, and when it ends."""

    # ``run.json`` keeps what is said of the model and its data, ``samples/targets.png`` shows what
    # is to be found in validation images.
    def __init__(
        self, model: Detector, train_set: SizedDataset, val_set: SizedDataset | None
    ) -> None:
        self.model, self.train_set, self.val_set = model, train_set, val_set

    def start(self, run: RunStart) -> None:
        """Write what the run is."""
        self.folder = run.folder
        about = about_run(self.model, self.train_set, self.val_set)
        about |= {"settings": run.settings}
        with replacing(self.folder / ABOUT_FILE) as part:
            part.write_text(
                json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        if self.val_set is not None:
            targets = self.folder / SAMPLES_FOLDER / TARGETS_FILE
            contact_sheet(None, self.val_set, self.train_set.class_names, targets)
        write_summary(self.folder)

    def log(self, line: Line) -> None:
        """Write the page after an epoch."""
        if line["kind"] == "epoch":
            write_summary(self.folder)

    def close(self) -> None:
        """Write the page with the last steps."""
        write_summary(self.folder)


def about_run(
    model: Detector, train_set: SizedDataset, val_set: SizedDataset | None
) -> dict[str, Json]:
    """What a page says of a run beside its record: JSON values; no image is loaded."""
    versions = {"Python": platform.python_version()}
    for name in ("mlx-rcnn", "mlx", "numpy", "pillow"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "model": type(model).__name__,
        "source": model.source,
        "usual_metric": metric_of(model),
        "classes": list(train_set.class_names[1:]),
        "data": {
            name: _counted(dataset)
            for name, dataset in (("training", train_set), ("validation", val_set))
            if dataset is not None
        },
        "versions": versions,
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }


def _counted(dataset: SizedDataset) -> dict[str, Json]:
    if not hasattr(dataset, "target"):
        return {"images": len(dataset)}
    found = report(dataset)
    return {"images": found.images, "empty": found.empty, "objects": found.objects}


def write_summary(folder: str | os.PathLike[str]) -> Path:
    """Make the page of a run, again or for the first time, from what lies in its folder.

    Args:
        folder: of the run, which may be under way. ``metrics.jsonl`` is enough; ``run.json`` adds
            the data, settings and versions, ``samples`` the pictures.

    Returns:
        The page, ``summary.html``, replaced if it exists.

    Raises:
        FileNotFoundError: the folder holds no ``metrics.jsonl``.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    lines, path = read_lines(folder / METRICS_FILE), folder / ABOUT_FILE
    about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    text = page(folder.absolute().name, lines, about, _pictures(folder))
    with replacing(folder / SUMMARY_FILE) as part:
        part.write_text(text, encoding="utf-8")
    return folder / SUMMARY_FILE


def _pictures(folder: Path) -> dict[str, bytes]:
    """JPEGs of the last epoch's predictions and of what should be found, by what they are."""
    found = {}
    sheets = sorted((folder / SAMPLES_FOLDER).glob("epoch-*.png"))
    if sheets:
        epoch = int(sheets[-1].stem.removeprefix("epoch-"))
        found[f"Validation images: found after epoch {epoch}"] = sheets[-1]
        targets = folder / SAMPLES_FOLDER / TARGETS_FILE
        found |= {"Validation images: annotated": targets} if targets.is_file() else {}
    return {text: _jpeg(path) for text, path in found.items()}


def _jpeg(path: Path) -> bytes:
    with Image.open(path) as image:
        data = io.BytesIO()
        image.convert("RGB").save(data, format="JPEG", quality=85)
    return data.getvalue()
