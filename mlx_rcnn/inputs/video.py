"""Frames of videos and cameras, decoded by PyAV (extra ``video``), which is FFmpeg."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..files import Closing

VIDEO_SUFFIXES = (
    ".3gp",
    ".avi",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".ogv",
    ".ts",
    ".webm",
    ".wmv",
)
"""What counts as a video in a folder; a file named outright may have any suffix."""

_CAMERA_FORMATS = {"darwin": "avfoundation", "linux": "v4l2", "win32": "dshow"}


class VideoError(ValueError):
    """A video that cannot be opened, or holds no picture."""


class Frame(NamedTuple):
    """One picture of a video."""

    image: np.ndarray  # (H, W, 3) uint8 RGB, upright
    number: int  # counted from 0 in the order shown
    seconds: float  # since the video's start, as its own clock says, also where the rate varies
    latency: float | None = None  # seconds from decoded to predicted, once it is


def load_av() -> ModuleType:
    """The library PyAV; an ImportError says how to install it."""
    try:
        return import_module("av")
    except ImportError as error:
        raise ImportError(
            'videos need PyAV: pip install "mlx-rcnn[video]" (or pip install av)'
        ) from error


class Video(Closing):
    """A video file or a camera, whose frames are iterated once, upright and in 8 bits."""

    def __init__(
        self,
        source: str | os.PathLike[str] | int,
        start: float = 0.0,
        stop: float | None = None,
        every: int = 1,
    ) -> None:
        if every < 1 or start < 0 or (stop is not None and stop <= start):
            raise VideoError(
                f"start={start}, stop={stop}, every={every}: expected 0 <= start < stop and every "
                "of at least 1"
            )
        # in seconds; frames from ``stop`` on are not given
        self.start, self.stop, self.every = float(start), stop, every
        # a camera, by its number: 0 for the first
        self.path = None if isinstance(source, int) else Path(source)
        self.truncated: str | None = None  # why the file ended before its time, once it has
        self._av = load_av()
        self._container = self._open(source)
        streams = self._container.streams.video
        if not streams:
            self._container.close()
            raise VideoError(f"{source} has no picture: expected a video")
        self._stream = streams[0]
        self._stream.thread_type = "AUTO"
        # frames a second on average
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 30)
        self.frames = self._count()  # that will be given, as far as the file tells
        if self.path is not None and self.start and self._length() <= self.start:
            self.close()
            raise VideoError(f"{source} lasts {self._length():.2f} s: none is left from {start} s")

    def _open(self, source: str | os.PathLike[str] | int) -> Any:
        try:
            if isinstance(source, int):
                return self._camera(source)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(
                f"camera {source} cannot be opened: {_reason(error)}: expected the number of one "
                "that is there, 0 being the first, or a video file"
            ) from error
        try:
            path = Path(source)
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder: expected a video")
            with path.open("rb") as file:
                if not file.read(1):
                    raise VideoError(f"{path} is empty: expected a video")
            return self._av.open(os.fspath(path))
        except (FileNotFoundError, PermissionError, IsADirectoryError, VideoError):
            raise
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(
                f"{source} cannot be opened as a video: {_reason(error)}: it is none, or is "
                "damaged or cut short"
            ) from error

    def _camera(self, number: int) -> Any:
        kind = next((v for k, v in _CAMERA_FORMATS.items() if sys.platform.startswith(k)), None)
        if kind is None:
            raise VideoError(f"cameras are not known on {sys.platform}: expected a file")
        name = f"/dev/video{number}" if kind == "v4l2" else f"{number}:none"
        options = {"framerate": "30"} if kind == "avfoundation" else {}
        return self._av.open(name, format=kind, options=options)

    def _length(self) -> float:
        """Seconds of the file as its header says; infinite if it does not."""
        stream, container = self._stream, self._container
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return container.duration / self._av.time_base if container.duration else float("inf")

    def _count(self) -> int | None:
        length = min(self._length(), self.stop or float("inf")) - self.start
        if self.path is None or length == float("inf"):
            return None
        whole = self.start == 0 and self.stop is None and self._stream.frames
        count = self._stream.frames if whole else round(length * float(self.rate))
        return max(-(-int(count) // self.every), 1)

    def __iter__(self) -> Iterator[Frame]:
        """Frames in the order shown; a VideoError if nothing of the video can be decoded."""
        first: float | None = None
        given = False
        index = -1
        for index, frame in enumerate(self._decoded()):
            clock = frame.time if frame.time is not None else float(index / self.rate)
            first = clock if first is None else first
            seconds = clock - first
            if self.stop is not None and seconds >= self.stop:
                break
            if seconds < self.start or index % self.every:
                continue
            given = True
            yield Frame(_upright(frame), index, seconds)
        if index < 0 or not given:
            why = self.truncated or "it has no frames there"
            raise VideoError(f"{self.path or 'the camera'}: nothing could be decoded: {why}")

    def _decoded(self) -> Iterator[Any]:
        """FFmpeg's frames; damage in the file ends them, and is kept."""
        try:
            yield from self._container.decode(self._stream)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            self.truncated = _reason(error)

    @property
    def container(self) -> Any:
        """PyAV's, for its sound."""
        return self._container

    def close(self) -> None:
        """Close the file or camera."""
        self._container.close()


def _upright(frame: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as the file says."""
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
