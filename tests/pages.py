"""The code blocks of the pages, and a folder in which they run: tiny photos, data and models.

A comment before a block says what it is where it cannot run here:

    <!-- not run: REASON -->    nothing of it is checked
    <!-- needs WHAT -->         it runs where that, an extra, is installed
    <!-- of PATH -->            an excerpt, whose lines are those of a file of the package
    <!-- theirs -->             another library's: it must be Python, no more
    <!-- run -->                a shell block whose mlx_rcnn commands run, which others' do not
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

import mlx_rcnn
import tiny
from clips import clip
from mlx_rcnn.data import ShapesDataset, open_dataset, write_dataset

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
PHOTO = Path(__file__).with_name("goldens") / "images" / "deck.jpg"
SHELL = ("", "sh", "console", "bash")
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^>]+) -->\n+)?```(?P<kind>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# Names that pages give to models: a directory may be called what a checkpoint is.
MODELS = {
    "my_model": "mask_rcnn",
    "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth": "faster_rcnn",
    "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth": "mask_rcnn",
    "model_final_280758.pkl": "faster_rcnn",
    "epoch_12.pth": "faster_rcnn",
    "snapshot-detector-250.pt": "faster_rcnn",
}
LAYOUTS = "model_final.pth"  # of five classes, whose names it does not know


@dataclass(frozen=True)
class Block:
    """A fenced block: ``line`` of its page, its language, its text, and the comment before it."""

    page: str
    line: int
    kind: str
    code: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """All blocks of a page."""
    text = path.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text[: found.start("code")].count("\n")
        mark = found["mark"] or ""
        yield Block(path.relative_to(ROOT).as_posix(), line, found["kind"], found["code"], mark)


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a shell block, without prompts and comments."""
    found, text = [], block.code.replace("\\\n", " ")
    for line in text.splitlines():
        line = re.sub(r"^\$ ", "", line.strip())
        line = re.sub(r"\$\([^)]*\)", "VALUE", line)
        for part in re.split(r"\s(?:\||&&|>)\s", line):
            if words := shlex.split(part, comments=True):
                found.append(words)
    return found


def arguments(words: list[str]) -> list[str] | None:
    """What a command gives to ``mlx_rcnn``; ``None`` for a command of something else."""
    while words and re.match(r"\w+=", words[0]):  # of the environment
        words = words[1:]
    for start in (["mlx_rcnn"], ["-m", "mlx_rcnn"]):
        for i in range(len(words) if start[0] == "-m" else 1):
            if words[i : i + len(start)] == start:
                return words[i + len(start) :]
    return None


def make_folder(folder: Path) -> None:
    """All files that pages name."""
    folder.mkdir(parents=True)
    for name in ("photo.jpg", "slide.png", "page.png"):
        Image.open(PHOTO).crop((0, 0, 160, 120)).save(folder / name)
    page = Image.open(folder / "photo.jpg")
    page.save(folder / "stack.tif", save_all=True, append_images=[page])
    (folder / "photos").mkdir()
    shutil.copy(folder / "photo.jpg", folder / "photos" / "a.jpg")
    clip(folder / "clip.mp4", 6, size=(64, 80))
    parts = {name: tiny.shapes(count, seed) for name, count, seed in SPLITS}
    write_dataset(parts, folder / "VOCdevkit" / "VOC2007", "voc")
    write_dataset(parts, folder / "my_photos", "yolo")
    write_dataset(parts, folder / "task", "cvat")
    shutil.copytree(ROOT / "examples" / "blood_cells", folder / "examples" / "blood_cells")
    make_pedestrians(folder / "PennFudanPed", tiny.shapes(6))
    names = open_dataset(folder / "my_photos", split="train").class_names
    for name, kind in MODELS.items():
        mlx_rcnn.save(small_model(kind, len(names), names), folder / name)
    mlx_rcnn.save(small_model("faster_rcnn", 6), folder / LAYOUTS)


SPLITS = (("train", 4, 0), ("val", 2, 1), ("test", 2, 2))


def make_pedestrians(folder: Path, shapes: ShapesDataset) -> None:
    """Penn-Fudan's two folders: a photo, and a picture whose pixels are the number of an object."""
    for name in ("PNGImages", "PedMasks"):
        (folder / name).mkdir(parents=True)
    for i in range(len(shapes)):
        sample = shapes[i]
        numbers = np.zeros(sample.image.shape[:2], np.uint8)
        for number, mask in enumerate(sample.target["masks"], 1):
            numbers[mask > 0] = number
        Image.fromarray(sample.image).save(folder / "PNGImages" / f"Ped{i:05}.png")
        Image.fromarray(numbers).save(folder / "PedMasks" / f"Ped{i:05}_mask.png")


def small_model(kind: str, classes: int, names: tuple[str, ...] | None = None) -> Any:
    """An untrained model that takes milliseconds, and finds something whatever it sees."""
    options = {"class_names": names, "box_score_thresh": 0.0, "box_detections_per_img": 8}
    model = tiny.build(kind, classes=classes, **options).eval()
    mx.eval(model.parameters())
    return model
