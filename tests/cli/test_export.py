"""``mlx_rcnn export``: what it writes and says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_rcnn
import tiny
from mlx_rcnn import load_function
from mlx_rcnn.cli.main import main


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    mlx_rcnn.save(tiny.build(class_names=("__background__", "a", "b", "c")), folder)
    return folder


def test_export(stored: Path, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "app.mlxfn"
    dest.write_text("old")
    args = ["--size", "64x80, 96X64", "--top-k", "9", "--set", "box_nms_thresh=0.4"]
    assert main(["export", str(stored), str(dest), "--classes", "x,y,z", *args]) == 0
    first, second, wrote, needs, hint = capsys.readouterr().out.splitlines()
    assert first.startswith("64x80: 9 of 9 detections of a test picture as predict gives them")
    assert first.endswith(", within 0 px and 0 of score")
    assert second.startswith("96x64: 9 of 9 ")
    assert wrote.startswith(f"wrote {dest} (") and wrote.endswith(f"and {dest}.json")
    assert needs == f"it needs MLX {mx.__version__}, and runs on a CPU"
    assert hint == "for a Mac's GPU export it on a Mac, without --device cpu"
    function = load_function(dest)
    assert function.metadata == json.loads(Path(f"{dest}.json").read_text())
    assert function.metadata["class_names"] == ["__background__", "x", "y", "z"]
    assert function.metadata["nms_thresh"] == 0.4
    assert len(function(np.zeros((96, 64, 3), np.uint8))["scores"]) <= 9


@pytest.mark.parametrize(
    ("dest", "args", "message"),
    [
        ("a.mlxfn", ["--size", "800"], "'800' given, expected HEIGHTxWIDTH in pixels, such as"),
        ("a.mlxfn", ["--size", "64x80,"], "'64x80,' given, expected HEIGHTxWIDTH"),
        ("a.mlxfn", ["--size", "-64x80"], "expected"),
        ("a.mlxfn", [], "the following arguments are required: --size"),
        ("a.mlxfn", ["--size", "8x80"], "size 8x80: expected sides of 32 to 4096 pixels"),
        ("a.onnx", ["--size", "64x80"], "expected a name that ends in .mlxfn"),
        ("", ["--size", "64x80"], "expected a name that ends in .mlxfn"),
        ("no/a.mlxfn", ["--size", "64x80"], "no such folder: "),
        ("a.mlxfn", ["--size", "64x80", "--set", "score=1"], "score"),
    ],
)
def test_bad_arguments(dest, args, message, stored, tmp_path, capsys) -> None:
    assert main(["export", str(stored), str(tmp_path / dest), *args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mlx_rcnn: error: ") and error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(stored, tmp_path, capsys, monkeypatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(["export", str(stored), str(tmp_path / "a.mlxfn"), "--size", "64x80"]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_a_folder_of_that_name(stored, tmp_path, capsys) -> None:
    (tmp_path / "a.mlxfn").mkdir()
    assert main(["export", str(stored), str(tmp_path / "a.mlxfn"), "--size", "64x80"]) == 2
    assert "a.mlxfn is a folder: expected a file to write" in capsys.readouterr().err
