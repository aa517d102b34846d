"""Annotated videos: frames with their own times, and the sound of the source."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..files import Closing
from ..inputs.video import Video, load_av

_CODECS = ("h264_videotoolbox", "libx264", "mpeg4")
_CLOCK = Fraction(1, 90_000)  # seconds; every usual rate is a whole number of these


class VideoWriter(Closing):
    """Writes an MP4 frame by frame; however writing ends, a file that was closed is whole."""

    def __init__(self, path: Path, source: Video, sound: bool = True) -> None:
        self._av = load_av()
        codec = next((name for name in _CODECS if name in self._av.codecs_available), None)
        if codec is None:
            raise ValueError(f"FFmpeg has none of {', '.join(_CODECS)}: videos cannot be written")
        self._source, self._codec = source, codec
        self._container = self._av.open(str(path), "w")
        self._stream: Any = None
        # copied, not coded anew, cut to the frames' span
        self._sound = sound and source.path is not None
        self._first: float | None = None
        self._last = -1
        self._end = 0.0

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Add a frame (H, W, 3) uint8 RGB shown at ``seconds``; all of one size."""
        if self._stream is None:
            # odd sides lose their last line
            self._begin(image.shape[0] // 2 * 2, image.shape[1] // 2 * 2)
            self._first = seconds
        height, width = self._stream.height, self._stream.width
        frame = self._av.VideoFrame.from_ndarray(
            np.ascontiguousarray(image[:height, :width]), format="rgb24"
        )
        place = round((seconds - (self._first or 0.0)) / _CLOCK)
        # later than the frame before, which keeps the times given
        self._last = max(place, self._last + 1)
        frame.pts, frame.time_base = self._last, _CLOCK
        self._end = seconds + float(1 / self._source.rate) * self._source.every
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _begin(self, height: int, width: int) -> None:
        stream = self._container.add_stream(self._codec, rate=self._source.rate)
        stream.height, stream.width, stream.pix_fmt = max(height, 2), max(width, 2), "yuv420p"
        stream.codec_context.time_base = _CLOCK
        self._stream = stream
        self._voices: list[Any] = []
        if self._sound:
            # Opened again: the source's own packets are being read by its decoder.
            self._input = self._av.open(str(self._source.path))
            self._voices = list(self._input.streams.audio[:1])
            self._copies = [self._container.add_stream_from_template(v) for v in self._voices]

    def _copy_sound(self) -> None:
        start, end = self._first or 0.0, self._end
        for voice, copy in zip(self._voices, self._copies, strict=True):
            begin: int | None = None
            for packet in self._input.demux(voice):
                if packet.dts is None or packet.pts is None or packet.time_base is None:
                    continue
                at = float(packet.pts * packet.time_base)
                if at < start or at >= end:
                    continue
                begin = packet.dts if begin is None else begin
                packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
                packet.stream = copy
                self._container.mux(packet)
        if self._sound:
            self._input.close()

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._copy_sound()
        self._container.close()
