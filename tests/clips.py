"""Small videos made by PyAV, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


def clip(
    path: Path,
    frames: int,
    *,
    rate: int | Fraction = 10,
    size: tuple[int, int] = (48, 64),
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    times: Sequence[float] | None = None,
    rotation: int = 0,
    corner: bool = False,
    sound: float = 0.0,
    images: Sequence[np.ndarray] | None = None,
) -> Path:
    """Write grey frames, each lighter than the one before, or ``images``.

    ``corner`` makes the upper left quarter white instead; ``sound`` adds so many seconds of a tone.
    """
    import av

    container = av.open(str(path), "w")
    stream: Any = None
    if frames:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if rotation:
            stream.set_display_rotation(rotation)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
    voice = container.add_stream("aac", rate=16000) if sound else None
    for i in range(frames):
        image = np.full((*size, 3), 20 + 200 * i // max(frames, 2), np.uint8)
        if corner:
            image[:], image[: size[0] // 2, : size[1] // 2] = 0, 255
        frame = av.VideoFrame.from_ndarray(image if images is None else images[i], format="rgb24")
        if times is not None:
            frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
        for packet in stream.encode(frame):
            container.mux(packet)
    if stream is not None:
        for packet in stream.encode():
            container.mux(packet)
    if voice is not None:
        _tone(av, container, voice, sound)
    container.close()
    return path


def _tone(av: Any, container: Any, voice: Any, seconds: float) -> None:
    wave = np.sin(np.arange(round(16000 * seconds)) * 0.17).astype(np.float32)[None]
    for start in range(0, wave.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(wave[:, start : start + 1024]), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = 16000, start
        for packet in voice.encode(frame):
            container.mux(packet)
    for packet in voice.encode():
        container.mux(packet)
