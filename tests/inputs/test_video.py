"""Videos: frames with their own clock, upright, of any depth; what is whole of a damaged one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clips import clip
from mlx_rcnn.inputs.ahead import ahead
from mlx_rcnn.inputs.video import Video, VideoError

pytest.importorskip("av")


def level(image: np.ndarray) -> float:
    return float(image[8:-8, 8:-8].mean())


def test_frames_are_numbered_and_timed(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", 12, rate=10)
    with Video(path) as video:
        assert video.rate == 10 and video.frames == 12
        found = list(video)
    assert [f.number for f in found] == list(range(12))
    np.testing.assert_allclose([f.seconds for f in found], np.arange(12) / 10, atol=1e-6)
    assert found[0].image.shape == (48, 64, 3) and found[0].image.dtype == np.uint8
    levels = [level(f.image) for f in found]
    assert np.all(np.diff(levels) > 5) and video.truncated is None


def test_every_from_and_to(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", 12, rate=10)
    for options, numbers in (
        ({"every": 5}, [0, 5, 10]),
        ({"start": 0.35}, list(range(4, 12))),
        ({"stop": 0.25}, [0, 1, 2]),
        ({"start": 0.3, "stop": 0.8, "every": 2}, [4, 6]),
    ):
        with Video(path, **options) as video:
            assert [f.number for f in video] == numbers, options
            assert video.frames is not None and abs(video.frames - len(numbers)) <= 1
    for wrong in ({"every": 0}, {"start": -1}, {"start": 2, "stop": 1}):
        with pytest.raises(VideoError, match="expected 0 <= start < stop"):
            Video(path, **wrong)
    with pytest.raises(VideoError, match=r"lasts 1.20 s: none is left from 5"):
        Video(path, start=5)


def test_a_rate_that_varies(tmp_path: Path) -> None:
    times = [0, 0.1, 0.5, 0.6, 2.0]
    path = clip(tmp_path / "a.mp4", 5, rate=10, times=times)
    with Video(path) as video:
        np.testing.assert_allclose([f.seconds for f in video], times, atol=1e-3)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_it_is_turned_as_players_show_it(tmp_path: Path, turn: int) -> None:
    """The upper left corner is bright; a rotation tag moves it."""
    path = clip(tmp_path / "a.mp4", 2, corner=True, rotation=turn)
    with Video(path) as video:
        [first, *_] = video
    assert first.image.shape[:2] == ((64, 48) if turn % 180 else (48, 64))
    height, width = first.image.shape[:2]
    halves = first.image[:, :, 0].reshape(2, height // 2, 2, width // 2).mean(axis=(1, 3))
    row, column = np.unravel_index(halves.argmax(), (2, 2))
    # Counterclockwise by the tag: the upper left goes down, then to the lower right, then up.
    assert (row, column) == {90: (1, 0), 180: (1, 1), 270: (0, 1)}[turn]


def test_ten_bits(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", 3, codec="ffv1", pixels="yuv420p10le")
    with Video(path) as video:
        levels = [level(f.image) for f in video]
    assert levels == sorted(levels) and levels[-1] > levels[0] + 20


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", 40, codec="ffv1")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with Video(path) as video:
        assert 5 < len(list(video)) < 40


def test_what_is_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    sound = clip(tmp_path / "sound.m4a", 0, sound=1.0)
    for name, kind, message in (
        ("none.mp4", FileNotFoundError, "none.mp4"),
        ("", IsADirectoryError, "is a folder"),
        ("empty.mp4", VideoError, "is empty: expected a video"),
        ("text.mp4", VideoError, "cannot be opened as a video"),
        (sound.name, VideoError, "has no picture"),
    ):
        with pytest.raises(kind, match=message):
            Video(tmp_path / name)
    with pytest.raises(VideoError, match="camera 77 cannot be opened"):
        Video(77)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'pip install "mlx-rcnn\[video\]"'):
        Video(tmp_path / "text.mp4")


def test_ahead_keeps_order_and_raises_what_was_raised() -> None:
    assert list(ahead(range(50), 3)) == list(range(50)) and list(ahead([], 1)) == []

    def failing() -> Iterator[int]:
        yield 1
        raise KeyError("x")

    items = ahead(failing(), 2)
    assert next(items) == 1
    with pytest.raises(KeyError):
        next(items)


def test_ahead_ends_its_thread_when_closed() -> None:
    made: list[int] = []

    def endless() -> Iterator[int]:
        n = 0
        while True:
            made.append(n)
            yield n
            n += 1

    items: Any = ahead(endless(), 2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert len(made) <= 7 and not [t for t in threading.enumerate() if t.name == "ahead"]


def test_the_rate_is_a_fraction(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", 4, rate=Fraction(30000, 1001))
    with Video(path) as video:
        assert video.rate == Fraction(30000, 1001)
