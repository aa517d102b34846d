"""Predictions of one image after the other, decoded ahead: videos, cameras, folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice

import mlx.nn as nn

from ..inputs.ahead import ahead
from ..inputs.images import load_image
from ..inputs.video import Frame, Video
from ..outputs.detections import Detections
from ..structures import ImageLike

AHEAD = 2  # batches decoded while one is predicted


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
    try:
        with closing(ahead(frames, AHEAD * size)) as waiting:  # type: ignore[type-var]
            while batch := list(islice(waiting, size)):
                found = model.predict([frame.image for frame in batch], **options)
                for result, frame in zip(found, batch, strict=True):
                    result.frame = frame
                    yield result
    finally:
        if video is not None:
            video.close()


def _numbered(images: Iterable[ImageLike], every: int) -> Iterator[Frame]:
    """Images as frames of a video of one a second."""
    for index, image in enumerate(images):
        if index % every == 0:
            yield Frame(load_image(image), index, float(index))
