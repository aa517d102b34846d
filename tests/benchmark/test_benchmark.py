"""What is measured: each case runs, in a process of its own, and says what it took."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_rcnn.benchmark import ours
from mlx_rcnn.benchmark.cases import CASES, Case, growth
from mlx_rcnn.benchmark.growth import draw_growth
from mlx_rcnn.benchmark.inputs import inputs, scene
from mlx_rcnn.benchmark.measure import Measured, measure
from mlx_rcnn.benchmark.table import content, heading, row
from mlx_rcnn.benchmark.worker import waits
from mlx_rcnn.cli import main

TINY = {
    "nms": {"lists": 2, "boxes": 30},
    "roi_align": {"boxes": 3, "height": 8, "width": 9, "channels": 4},
    "roi_align_grad": {"boxes": 3, "height": 8, "width": 9, "channels": 4},
    "roi_pool": {"boxes": 3, "height": 8, "width": 9, "channels": 4},
    "roi_pool_grad": {"boxes": 3, "height": 8, "width": 9, "channels": 4},
    "paste": {"masks": 2, "height": 40, "width": 50},
    "preprocess": {"height": 60, "width": 80},
    "train": {"model": "resnet18", "height": 64, "width": 80, "batch": 1, "dtype": "bfloat16"},
    "predict": {
        "model": "fasterrcnn_mobilenet_v3_large_320_fpn",
        "height": 96,
        "width": 128,
        "batch": 2,
        "classes": 5,
    },
}


@pytest.mark.parametrize("kind", TINY)
def test_every_kind_runs(tmp_path: Path, kind: str) -> None:
    run = ours.prepare(kind, TINY[kind], inputs(kind, TINY[kind]), tmp_path / "weights.npz")
    run()
    assert (tmp_path / "weights.npz").exists() == (kind == "predict")


def test_every_case_is_of_a_kind_that_runs() -> None:
    cases = [*CASES.values(), *(case for pairs in growth().values() for _, case in pairs)]
    for case in cases:
        known = "predict" if case.kind == "start" else case.kind
        assert set(case.options) == set(TINY[known]), case.title


def test_what_is_measured_finds_something(tmp_path: Path) -> None:
    """Random weights that find nothing would leave out what comes after the network."""
    options = {**TINY["predict"], "height": 320, "width": 427, "batch": 1, "classes": 91}
    run = ours.prepare("predict", options, inputs("predict", options), tmp_path / "w.npz")
    [found] = run()  # type: ignore[misc]
    assert len(found["scores"]) >= 5


def test_the_crowd_is_as_asked() -> None:
    data = inputs("nms", {"lists": 3, "boxes": 25})
    assert data["boxes"].shape == (75, 4) and (data["boxes"][:, 2:] > data["boxes"][:, :2]).all()
    assert np.bincount(data["idxs"]).tolist() == [25] * 3
    assert scene(30, 40).shape == (30, 40, 3)


def test_a_case_in_its_own_process() -> None:
    found = measure(Case("nms", "nms", TINY["nms"]), ["mlx"], 2)["mlx"]
    assert len(found.seconds) == 2 and min(found.seconds) > 0
    assert not found.failed and found.peak > 1e6 and found.waits >= 1


def test_what_fails_says_why() -> None:
    options = {**TINY["predict"], "model": "no_such_model"}
    found = measure(Case("none", "predict", options), ["mlx"], 2)["mlx"]
    assert "no_such_model" in found.failed and not found.seconds
    assert "no_such_model" in row(Case("none", "predict", options), {"mlx": found})


def test_waits() -> None:
    a = mx.ones(3)

    def run() -> None:
        mx.eval(a + 1)
        (a + 2).tolist()

    assert waits(run) == 2
    mx.eval(a)  # back as it was
    assert waits(lambda: None) == 0


def test_ratios_are_of_the_same_round() -> None:
    case = Case("x", "nms", {}, "171 ms")
    found = {"mlx": Measured([1.0, 2.0, 9.0], 5_000_000), "torch": Measured([2.0, 1.0, 3.0])}
    cells = [cell.strip() for cell in row(case, found).strip("|").split("|")]
    # Rounds of 0.5, 2 and 3: the middle one is 2, the ratio of medians would be 1.
    assert cells == ["x", "2000 ms", "1000 ms", "5 MB", "-", "2000 ms", "2.00", "-", "171 ms"]
    assert heading(["mlx", "torch"]).splitlines()[0].count("|") == len(cells) + 1
    [told] = content({"chip": "none"}, [(case, found)])["cases"]
    assert told["libraries"]["mlx"]["seconds"] == [1.0, 2.0, 9.0]


def test_growth_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curves = {"boxes": {"mlx": [(1, 0.1), (10, 0.2)], "torch": []}, "classes": {"mlx": [(2, 0.1)]}}
    draw_growth(curves, tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.width > 2 * picture.height


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CASES, "tiny", Case("tiny nms", "nms", TINY["nms"]))
    told = tmp_path / "new/figures.json"
    command = ["benchmark", "tiny", "--rounds", "1", "--against", "nothing", "--json", str(told)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "| tiny nms |" in shown and "\npower " in shown
    found = json.loads(told.read_text())
    assert found["machine"]["memory"].endswith("GiB")
    assert len(found["cases"][0]["libraries"]["mlx"]["seconds"]) == 1


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (["nms1k"], "did you mean 'nms-1k'?"),
        (["nms-1k", "--rounds", "0"], "at least 1"),
        (["nms-1k", "--json", f"{tmp_path}/a.txt/b.json"], "is not a folder"),
    ):
        (tmp_path / "a.txt").touch()
        assert main(["benchmark", *words]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "nms-1k", "--against", "torchvision"]) == 2
    assert "pip install torch torchvision" in capsys.readouterr().err
