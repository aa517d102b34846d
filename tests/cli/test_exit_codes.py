"""The table of exit codes in docs/commands.md is true of every command."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from PIL import Image

import mlx_rcnn
import tiny
from mlx_rcnn.cli import benchmark
from mlx_rcnn.cli.arguments import build_parser
from mlx_rcnn.cli.doctor import command as doctor
from mlx_rcnn.cli.main import main
from mlx_rcnn.cli.train import command as train
from mlx_rcnn.data import write_coco
from mlx_rcnn.inputs.images import ImageError

DATA = "data/annotations.json"
TRAIN = "train --data data --model model --epochs 1"
CANNOT_WORK = (
    "predict photos --model none",
    "predict none --model model",
    "train --data none --model model",
    f"{TRAIN} --batch-size 0",
    "evaluate --data none --model model",
    f"evaluate --data {DATA} --model none --metric voc",
    "convert none other",
    "convert model photos",
    "export model app.txt --size 64x64",
    "export none app.mlxfn --size 64x64",
    "info --model none",
    "data check none",
    "data stats none",
    "data draw none",
    "data split none",
    f"data convert {DATA} voc --out photos",
    "serve --model none --port 0",
    "doctor --json photos",
    "benchmark none",
    "completion tcsh",
)
NO_ROOM = (  # all that writes files
    "predict photos --model model",
    f"evaluate --data {DATA} --model model --metric voc --json found.json",
    TRAIN,
    "convert model other",
    "convert model other.pth --to torchvision",
    "export model app.mlxfn --size 64x64",
    "info --model model --json info.json",
    f"data check {DATA} --json defects.json",
    f"data stats {DATA} --json stats.json",
    f"data draw {DATA}",
    f"data split {DATA}",
    f"data convert {DATA} voc --out voc",
    "doctor --json doctor.json",
    "benchmark nms --against nothing --json speed.json",
)
NEVER_1 = {"completion"}  # prints, and no more
OTHERWISE_1 = {"serve"}  # which writes nothing: below


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    mlx_rcnn.save(tiny.build(), folder / "model")
    data = tiny.shapes()
    write_coco(data, folder / "data")
    (folder / "photos").mkdir()
    Image.fromarray(data[0].image).save(folder / "photos/0.png")
    return folder


@pytest.fixture
def here(laid_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for entry in laid_out.iterdir():
        os.symlink(entry, entry.name)
    monkeypatch.setattr(doctor, "CHECKS", doctor.CHECKS[:1])
    monkeypatch.setattr(benchmark, "CASES", {"nms": next(iter(benchmark.CASES.values()))})
    return tmp_path


def leaves(parser: Any, name: str = "") -> Iterator[str]:
    below = [a for a in parser._actions if isinstance(a.choices, dict)]
    if not below:
        yield name.strip()
    for action in below:
        for word, inner in action.choices.items():
            yield from leaves(inner, f"{name} {word}")


def commands(lines: tuple[str, ...]) -> set[str]:
    return {re.match(r"data \w+|\w+", line)[0] for line in lines}


def test_each_code_of_the_table_is_tried_of_each_command() -> None:
    page = (Path(__file__).parents[2] / "docs/commands.md").read_text()
    assert re.findall(r"^\| (\d+) \|", page, re.MULTILINE) == ["0", "1", "2", "130"]
    every = set(leaves(build_parser()))  # 0 of each: test_quiet.py, test_completion.py
    assert commands(CANNOT_WORK) == every
    assert commands(NO_ROOM) | OTHERWISE_1 | NEVER_1 == every


@pytest.mark.parametrize("line", CANNOT_WORK)
def test_2_what_cannot_work_is_one_line_and_begins_nothing(here: Path, capsys, line: str) -> None:
    before = sorted(os.listdir())
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"mlx_rcnn: error: .+\n", err)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("line", NO_ROOM)
def test_1_a_full_disk(here: Path, capsys, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Where files are put in their place, which all of them are."""

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if line.startswith("benchmark"):
        found = {benchmark.OURS: benchmark.Measured([0.1], 1)}
        monkeypatch.setattr(benchmark, "measure", lambda *_: found)
    monkeypatch.setattr("mlx_rcnn.files.os.replace", full)
    assert main(line.split()) == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err.splitlines()[-1] or "failed, named above" in err
    assert not list(here.glob("**/.*.part*"))


@pytest.mark.parametrize(
    "error", [ImageError("no image"), OSError("gone"), FloatingPointError("n")]
)
def test_1_training_that_fails(here: Path, capsys, monkeypatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(train, "fit", fail)
    assert main(TRAIN.split()) == 1
    assert capsys.readouterr().err == f"mlx_rcnn: error: {error}\n"


def test_1_a_port_in_use(here: Path, capsys) -> None:
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--model", "model", "--port", port]) == 1
    assert "Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [line for line in NO_ROOM if "model model" in line and "convert" not in line]
    + [f"data stats {DATA} --model model"],
)
def test_130_control_c(here: Path, capsys, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_rcnn.checkpoints.load.load", interrupted)
    assert main(line.split()) == 130
    assert capsys.readouterr().err.endswith("mlx_rcnn: interrupted\n")
