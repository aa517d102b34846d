"""Videos, cameras and tiles that cannot work as asked: one line, and what is whole stays."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mlx_rcnn
from clips import clip as write_clip
from mlx_rcnn.cli.main import main
from small import photo, untrained

ODD = "a b ü#1 %[x]"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without names, in a folder with an odd name, and a photo."""
    folder = tmp_path_factory.mktemp("bad") / ODD
    folder.mkdir()
    mlx_rcnn.save(untrained("faster_rcnn", box_detections_per_img=4), folder / "model")
    Image.fromarray(photo()[:90, :130]).save(folder / f"{ODD}.png")
    return folder


def run(here: Path, *words: object) -> int:
    return main([str(word) for word in ("predict", "--model", here / "model", *words)])


def test_no_names_odd_paths_and_tiles_larger_than_the_image(here: Path, tmp_path: Path) -> None:
    out = tmp_path / "öut #1"
    image = here / f"{ODD}.png"
    words = ("--out", out, "--save", "csv,crops", "--confidence", 0)
    assert run(here, image, "--tile", 5000, *words) == 0
    assert ",class " in (out / "detections.csv").read_text(encoding="utf-8")
    assert (out / f"{ODD}.png").exists() and list((out / "crops").glob(f"class */{ODD[:5]}*"))
    whole = tmp_path / "whole"
    assert run(here, image, "--out", whole) == 0
    assert (whole / "detections.json").read_text() == (out / "detections.json").read_text()


def test_videos_and_cameras_are_one_line(here: Path, tmp_path: Path, capsys: Any) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 3)
    cut, empty = tmp_path / "cut.mp4", tmp_path / "empty.mp4"
    cut.write_bytes(clip.read_bytes()[-200:])
    empty.write_bytes(b"")
    file = tmp_path / "file"
    file.write_text("x")
    for words, message in (
        ([cut], "it is none, or is damaged or cut short"),
        ([empty], "empty.mp4 is empty: expected a video"),
        ([clip, "--tile", 64], "--tile go with images, not with videos"),
        ([clip, here / f"{ODD}.png"], "expected images or videos, not both"),
        ([clip, "--out", file / "out"], f"{file} is not a folder"),
    ):
        out = [] if "--out" in words else ["--out", tmp_path / "out"]
        assert run(here, *out, *words) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()
    assert run(here, 77, "--out", tmp_path / "out") == 1  # cameras are opened once, with the model
    assert "camera 77 cannot be opened: " in (err := capsys.readouterr().err)
    assert "0 being the first" in err and not list((tmp_path / "out").iterdir())


def test_a_full_disk_leaves_the_results(
    here: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures and crops cannot be written: each is said, and the JSON is whole."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mlx_rcnn.cli.predict.received.write_file", full)
    monkeypatch.setattr("mlx_rcnn.cli.predict.save.write_file", full)
    words = ("--out", tmp_path, "--save", "crops", "--confidence", 0)
    assert run(here, here / f"{ODD}.png", "--tile", 64, *words) == 1
    err = capsys.readouterr().err
    assert "cannot write the crops of" in err and f"{ODD}.png: No space left on device" in err
    assert "2 failed, named above" in err
    assert len(json.loads((tmp_path / "detections.json").read_text())) > 3
    assert not list(tmp_path.glob("**/*.part*"))


def test_a_full_disk_during_a_video(
    here: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_rcnn.outputs.video import VideoWriter

    def full(self: Any, image: np.ndarray, seconds: float) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    clip = write_clip(tmp_path / "clip.mp4", 3)
    monkeypatch.setattr(VideoWriter, "write", full)
    assert run(here, clip, "--out", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err.splitlines()[-1]
    assert not list((tmp_path / "out").iterdir())  # neither half a video nor half a table
