"""Predictions of one image after the other, decoded and resized ahead: videos, cameras, folders."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import mlx.nn as nn

from ..inputs.ahead import ahead
from ..inputs.images import load_image
from ..inputs.video import Frame, Video
from ..outputs.detections import Detections
from ..structures import ImageLike

AHEAD = 2  # batches that wait while one is predicted


class _Ready(NamedTuple):
    """Some frames, when each was decoded, and what ``predict`` takes of them."""

    frames: list[Frame]
    decoded: list[float]
    images: Any


def stream(
    model: nn.Module,
    source: str | os.PathLike[str] | int | Video | Iterable[ImageLike],
    *,
    batch_size: int = 1,
    every: int = 1,
    start: float = 0.0,
    stop: float | None = None,
    **options: object,
) -> Iterator[Detections]:
    """Predict the frames of a video, of a camera, or any images, as ``Detector.stream`` says."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")
    if isinstance(source, Video):
        frames: Iterable[Frame] = source
        video = None
    elif isinstance(source, str | os.PathLike | int):
        frames = video = Video(source, start, stop, every)
    else:
        frames, video = _numbered(source, every), None
    # Frames are decoded in a thread while others are predicted; nothing is kept.
    return _results(model, frames, video, batch_size, options)


def _results(
    model: nn.Module,
    frames: Iterable[Frame],
    video: Video | None,
    size: int,
    options: dict[str, object],
) -> Iterator[Detections]:
    plain = "augment" in options or not hasattr(model, "prepare")  # several sizes, or a stand-in
    batches = _batches(frames, size, list if plain else model.prepare)
    try:
        with closing(ahead(batches, AHEAD)) as waiting:  # type: ignore[type-var]
            for batch in waiting:
                found = model.predict(batch.images, **options)
                done = time.perf_counter()
                for result, frame, at in zip(found, batch.frames, batch.decoded, strict=True):
                    result.frame = frame._replace(latency=done - at)
                    yield result
    finally:
        if video is not None:
            video.close()


def _batches(
    frames: Iterable[Frame], size: int, prepare: Callable[[list[Any]], Any]
) -> Iterator[_Ready]:
    """Frames, so many at once, made ready."""
    batch, decoded = list[Frame](), list[float]()
    for frame in frames:
        batch.append(frame)
        decoded.append(time.perf_counter())
        if len(batch) == size:
            yield _Ready(batch, decoded, prepare([frame.image for frame in batch]))
            batch, decoded = [], []
    if batch:
        yield _Ready(batch, decoded, prepare([frame.image for frame in batch]))


def _numbered(images: Iterable[ImageLike], every: int) -> Iterator[Frame]:
    """Images as frames of a video of one a second."""
    for index, image in enumerate(images):
        if index % every == 0:
            yield Frame(load_image(image), index, float(index))
