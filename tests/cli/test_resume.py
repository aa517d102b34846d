"""``predict`` and ``evaluate`` that end early, and go on with ``--resume``, on one machine."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from PIL import Image

from annotated import coco_content, make_coco
from mlx_rcnn.cli.main import main
from mlx_rcnn.cli.sharing.first_machine import First

PARTIAL, MISSING = Path("out/detections.partial.jsonl"), Path("out/detections.missing.txt")
NAMES = ("__background__", "cat", "dog")
COUNT = 5


class Model(nn.Module):
    """Finds a cat as bright as the image; fails in a call that is given, in a way that is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = mx.array([0.5])
        self.class_names, self.config = NAMES, SimpleNamespace(num_classes=3, image_levels=None)
        self.calls: list[list[float]] = []
        self.fails: tuple[int, type[BaseException]] = (0, KeyboardInterrupt)

    def predict(self, images: list, **_: Any) -> list[dict[str, np.ndarray]]:
        if len(self.calls) + 1 == self.fails[0]:
            raise self.fails[1]
        self.calls.append([float(image[0, 0, 0]) for image in images])
        return [
            {
                "boxes": np.array([[1, 2, 11.3, 12.7]], np.float32),
                "scores": np.array([image[0, 0, 0] / 255], np.float32),
                "labels": np.array([1], np.int32),
            }
            for image in images
        ]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Model:
    """In a folder with photos."""
    model = Model()
    monkeypatch.setattr("mlx_rcnn.checkpoints.load.load", lambda source, **_: model)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    names = [*(f"{i}.png" for i in range(COUNT - 1)), "é.png"]
    for i, name in enumerate(names):
        Image.new("RGB", (32, 24), (140 + 20 * i,) * 3).save(Path("photos") / name)
    return model


def predict(out: str = "out", *more: str) -> int:
    kinds = "coco,csv,crops"
    return main(["predict", "photos", "--model", "x", "--out", out, "--save", kinds, *more])


def ends_early(model: Model, call: int, how: type[BaseException], *more: str) -> None:
    model.fails = (call, how)
    with contextlib.nullcontext() if how is KeyboardInterrupt else pytest.raises(how):
        assert predict("out", *more) == 130
    model.fails = (0, how)


def files(folder: Path | str) -> dict[str, bytes]:
    folder = Path(folder)
    return {
        os.fspath(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("how", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("size", ["1", "2"])
def test_what_is_there_is_kept_and_the_rest_is_done(model: Model, how: Any, size: str) -> None:
    assert predict("whole", "--batch-size", size) == 0
    whole, model.calls = list(model.calls), []
    ends_early(model, 3, how, "--batch-size", size)
    assert model.calls == whole[:2]
    with PARTIAL.open("ab") as file:  # as a process leaves it that is killed while it writes
        file.write(b'{"batch": 4, "ima')
    assert predict("out", "--batch-size", size, "--resume") == 0
    assert model.calls == whole
    assert files("out") == files("whole")


def test_the_list_of_what_is_missing(model: Model, capsys: Any) -> None:
    ends_early(model, 4, KeyboardInterrupt)
    err = capsys.readouterr().err
    assert f"mlx_rcnn: 2 of 5 images are missing, listed in {MISSING}: --resume predicts" in err
    assert MISSING.read_bytes() == "photos/3.png\nphotos/é.png\n".encode()
    assert predict("out") == 2 and "coco is not empty" in capsys.readouterr().err
    ends_early(model, 5, KeyboardInterrupt, "--resume")  # it may end early again
    assert MISSING.read_bytes() == "photos/é.png\n".encode()
    assert predict("out", "--resume") == 0
    assert not MISSING.exists() and not PARTIAL.exists() and len(model.calls) == COUNT


def test_a_name_that_is_no_text(model: Model) -> None:
    """It comes back from the file, and is the same bytes in the list."""
    name = os.fsdecode(b"photos/\xe9.png")
    try:
        Path("photos/é.png").rename(name)
    except OSError:
        pytest.skip("such a name cannot be on this disk")
    run = ["predict", "photos", "--model", "x", "--out", "out", "--no-images"]
    model.fails = (2, KeyboardInterrupt)
    assert main(run) == 130
    assert MISSING.read_bytes().endswith(b"photos/3.png\nphotos/\xe9.png\n")
    model.fails = (0, KeyboardInterrupt)
    assert main([*run, "--resume"]) == 0
    assert json.loads(Path("out/detections.json").read_text())[-1]["image_id"] == name


def test_what_is_wrong_with_an_image_is_said_again(model: Model, capsys: Any) -> None:
    Path("photos/1.png").write_bytes(b"no image")
    ends_early(model, 3, KeyboardInterrupt)
    capsys.readouterr()
    assert predict("out", "--resume") == 1
    err = capsys.readouterr().err
    assert "cannot read photos/1.png" in err and "1 failed, named above" in err


def test_annotations_changed_meanwhile_are_left_alone(model: Model, capsys: Any) -> None:
    ends_early(model, 3, KeyboardInterrupt)
    changed = Path("out/coco/annotations.json")
    now = PARTIAL.stat().st_mtime + 5
    os.utime(changed, (now, now))
    assert predict("out", "--resume") == 2
    assert "--save coco: out/coco is not empty" in capsys.readouterr().err and changed.exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--score-thresh", "0.3"), "begun with no --score-thresh, now --score-thresh 0.3"),
        (("--batch-size", "2"), "begun with --batch-size 1, now --batch-size 2"),
        (("images",), "begun with other images"),
        (("weights",), "begun with other weights"),
        (("damaged",), "is damaged"),
        (("none",), "there is no out/detections.partial.jsonl"),
    ],
)
def test_another_run_is_not_gone_on_with(
    model: Model, more: tuple[str, ...], said: str, capsys: Any
) -> None:
    ends_early(model, 3, KeyboardInterrupt)
    capsys.readouterr()
    if more == ("images",):
        Path("photos/0.png").unlink()
    elif more == ("weights",):
        model.weight = model.weight + 1
    elif more == ("damaged",):
        PARTIAL.write_bytes(PARTIAL.read_bytes().replace(b'"batch"', b'"bitch'))
    elif more == ("none",):
        PARTIAL.unlink()
    flags = more if more[0].startswith("--") else ()
    assert predict("out", "--resume", *flags) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and len(model.calls) == 2


def test_without_resume_it_begins_again_and_says_so(model: Model, capsys: Any) -> None:
    run = ["predict", "photos", "--model", "x", "--out", "out", "--no-images"]
    model.fails = (3, KeyboardInterrupt)
    assert main(run) == 130
    model.fails, model.calls = (0, KeyboardInterrupt), []
    assert main(run) == 0 and len(model.calls) == COUNT
    assert f"an unfinished run is in {PARTIAL}" in capsys.readouterr().err
    assert sorted(files("out")) == ["detections.json"]


def test_a_full_disk_is_said_at_once(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(line: Any) -> bytes:
        if "batch" in line:
            raise OSError(28, "No space left on device")
        return json.dumps(line).encode() + b"\n"

    monkeypatch.setattr("mlx_rcnn.cli.sharing.unfinished._line", full)
    assert predict("out") == 1 and len(model.calls) <= 3  # what was predicted meanwhile
    assert f"cannot write {PARTIAL}: No space left on device" in capsys.readouterr().err


def evaluate(*more: str) -> int:
    return main(["evaluate", "--data", "annotations.json", "--model", "x", *more])


def test_an_evaluation_goes_on(model: Model, tmp_path: Path, capsys: Any) -> None:
    make_coco(tmp_path, coco_content())
    assert evaluate("--json", "whole.json") == 0
    table = [line for line in capsys.readouterr().out.splitlines() if "whole" not in line]
    model.calls, model.fails = [], (2, KeyboardInterrupt)
    assert evaluate("--json", "out.json") == 130 and not Path("out.json").exists()
    assert "images are missing, listed in out.missing.txt: --resume" in capsys.readouterr().err
    model.fails = (0, KeyboardInterrupt)
    assert evaluate("--json", "out.json", "--resume") == 0
    again = [line for line in capsys.readouterr().out.splitlines() if "out.json" not in line]
    assert [a for a in again if "second" not in a] == [a for a in table if "second" not in a]
    assert Path("out.json").read_bytes() == Path("whole.json").read_bytes()
    assert not list(tmp_path.glob("out.*.*")) and len(model.calls) == 2
    assert evaluate("--resume") == 2 and "--resume goes with --json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "clip.mp4"], "videos and cameras are predicted by one machine"),
        (["predict", "-"], "SOURCE - has no end under mlx.launch"),
        (["predict", "photos", "--proposals", "selective-search"], "searches on one machine"),
        (["evaluate", "--data", "a.json", "--predictions", "b.json"], "are scored by one machine"),
    ],
)
def test_what_one_machine_does_alone(
    model: Model, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    Path("clip.mp4").write_bytes(b"")
    several = contextlib.nullcontext(First({}, 2))
    monkeypatch.setattr(f"mlx_rcnn.cli.{words[0]}.command.machines", lambda: several)
    given = words if "--predictions" in words else [*words, "--model", "x"]
    assert main(given) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_videos_are_not_gone_on_with(model: Model, capsys: Any) -> None:
    Path("clip.mp4").write_bytes(b"")
    assert main(["predict", "clip.mp4", "--model", "x", "--resume"]) == 2
    assert "--resume goes with images" in capsys.readouterr().err
