"""Selective Search over a whole dataset, once, in a file that is used again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from ..inputs.proposals import Proposed
from ..progress import bar
from .dataset import DetectionDataset, load_pixels
from .proposal_files import image_names, read_note, read_proposals, write_proposals
from .protocols import OnDisk
from .selective_search import LIMIT, WIDTH, check_settings, load_opencv, selective_search

_SOURCE = "Selective Search of OpenCV"
_SAVE_EVERY = 60.0  # seconds of work that a crash may cost


def compute_proposals(
    dataset: DetectionDataset,
    path: str | os.PathLike[str],
    mode: str = "fast",
    limit: int = LIMIT,
    width: int = WIDTH,
    *,
    progress: bool = True,
    workers: int = 1,
) -> Path:
    """Have the proposals of :func:`selective_search` for all images, computing those not yet there.

    Images that the file has are not computed again; those of another split are added to it. What
    is done is kept when a run is interrupted, in ``NAME.partial.npz`` beside the file, and the next
    run goes on from there. One core takes about a second an image of 640x480.

    Args:
        dataset: of :func:`open_dataset`.
        path: a folder, made if missing, which gets a file whose name has the settings, such as
            ``proposals-selective-search-fast-500px-2000.npz``; or a file, ending in ``.npz``.
        mode, limit, width: see :func:`selective_search`.
        progress: show a bar. Default: ``True``.
        workers: processes; more than one are started anew (``spawn``), so that a script needs
            ``if __name__ == "__main__":``. Default: ``1``, this process.

    Returns:
        The file, for :func:`with_proposals`.

    Raises:
        ImportError: OpenCV's contrib modules are not installed.
        ImageError: an image is damaged.
        OSError: the file cannot be read or written.
        ValueError: a setting out of range, or a file there that is damaged, has other settings, or
            another image of the same name.
    """
    check_settings(mode, limit, width)
    if workers < 1:
        raise ValueError(f"workers={workers}: expected at least 1")
    settings: _Settings = {
        "method": "selective-search",
        "mode": mode,
        "width": width,
        "limit": limit,
    }
    store = _Store(_file(Path(path), mode, limit, width), settings)
    tasks = store.lacking(dataset)
    if tasks or not store.path.exists():
        if tasks:
            load_opencv()  # before the bar, and before processes start
        store.path.parent.mkdir(parents=True, exist_ok=True)
        _compute(store, tasks, workers, progress)
    return store.path


class _Settings(TypedDict):
    """What a file of proposals was made with."""

    method: str
    mode: str
    width: int
    limit: int


class _Task(NamedTuple):
    """One image, as small as can be: it goes to another process."""

    name: str
    path: Path
    upright: bool
    mode: str
    limit: int
    width: int


class _Store:
    """What is done so far, of the file and of an interrupted run."""

    def __init__(self, path: Path, settings: _Settings) -> None:
        self.path, self.settings = path, settings
        self.partial = path.with_name(f"{path.stem}.partial.npz")
        self.done: dict[str, Proposed] = {}
        self.bytes: dict[str, int] = {}  # of each image's file, to tell images of one name apart
        for file in (path, self.partial):
            if file.exists():
                self._read(file)

    def _read(self, file: Path) -> None:
        note = read_note(file)
        sizes = note.get("bytes")
        if note.get("settings") != self.settings or not isinstance(sizes, dict):
            raise ValueError(
                f"{file} has proposals made by {note.get('settings') or 'something else'}, "
                f"expected {self.settings}: give another path"
            )
        self.done.update(read_proposals(file))
        self.bytes.update(sizes)

    def lacking(self, dataset: OnDisk) -> list[_Task]:
        """What is to be done; the images' names and sizes are known afterwards."""
        tasks = []
        own = self.settings
        for name, item in zip(image_names(dataset), dataset.items, strict=True):
            size = item.path.stat().st_size
            if self.bytes.setdefault(name, size) != size:
                raise ValueError(
                    f"{self.path} has the proposals of another image called {name} than "
                    f"{item.path}: give another path, or remove it"
                )
            if name not in self.done:
                task = _Task(name, item.path, item.upright, own["mode"], own["limit"], own["width"])
                tasks.append(task)
        return tasks

    def save(self, path: Path) -> None:
        sizes = {name: self.bytes[name] for name in self.done if name in self.bytes}
        note = {"source": _SOURCE, "settings": self.settings, "bytes": sizes}
        write_proposals(path, self.done, note)


def _file(path: Path, mode: str, limit: int, width: int) -> Path:
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return path
    return path / f"proposals-selective-search-{mode}-{width}px-{limit}.npz"


def _compute(store: _Store, tasks: Sequence[_Task], workers: int, progress: bool) -> None:
    saved = time.monotonic()
    shown = bar(total=len(tasks), unit="image", desc="selective search", disable=not progress)
    try:
        with shown:
            for name, boxes in _boxes(tasks, workers):
                store.done[name] = Proposed(boxes)
                shown.update()
                if time.monotonic() - saved > _SAVE_EVERY:
                    store.save(store.partial)
                    saved = time.monotonic()
    except BaseException:
        if store.done:
            store.save(store.partial)
        raise
    store.save(store.path)
    store.partial.unlink(missing_ok=True)


def _boxes(tasks: Sequence[_Task], workers: int) -> Iterator[tuple[str, np.ndarray]]:
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(_one, tasks)
        return
    # Not forked: neither MLX nor OpenCV's threads survive it.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_one, tasks)


def _one(task: _Task) -> tuple[str, np.ndarray]:
    image = load_pixels(task.path, task.upright)
    return task.name, selective_search(image, task.mode, task.limit, task.width)
