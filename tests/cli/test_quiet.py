"""``--quiet``: nothing but warnings and errors, of any command; files and exit codes stay."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import mlx_rcnn
import tiny
from mlx_rcnn import progress
from mlx_rcnn.benchmark.measure import OURS, Measured
from mlx_rcnn.cli import benchmark
from mlx_rcnn.cli.arguments import build_parser
from mlx_rcnn.cli.doctor import command as doctor
from mlx_rcnn.cli.main import main
from mlx_rcnn.cli.sharing.unfinished import described
from mlx_rcnn.data import write_coco

DATA = "data/annotations.json"
COMMANDS = {
    "predict": ["predict", "photos", "--model", "model"],
    "evaluate": ["evaluate", "--data", DATA, "--model", "model", "--metric", "voc"],
    "train": ["train", "--data", "data", "--model", "model", "--epochs", "1", "--batch-size", "3"],
    "find": ["train", "--data", "data", "--model", "model", "--find-lr", "10", "--batch-size", "2"],
    "convert": ["convert", "model", "other", "--verify"],
    "export": ["export", "model", "app.mlxfn", "--size", "64x64"],
    "info": ["info", "--model", "model"],
    "doctor": ["doctor"],
    "benchmark": ["benchmark", "nms", "--against", "nothing", "--rounds", "1"],
    "check": ["data", "check", DATA, "--pixels"],
    "stats": ["data", "stats", DATA, "--json", "stats.json"],
    "draw": ["data", "draw", DATA],
    "split": ["data", "split", DATA],
    "to": ["data", "convert", DATA, "voc", "--out", "voc"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, data and photos; ``doctor`` and ``benchmark`` do less than they do."""
    monkeypatch.chdir(tmp_path)
    model = tiny.build()
    model.config = replace(model.config, class_names=tiny.shapes().class_names)
    mlx_rcnn.save(model, "model")
    data = tiny.shapes()
    write_coco(data, tmp_path / "data")
    Path("photos").mkdir()
    for i in range(2):
        Image.fromarray(data[i].image).save(f"photos/{i}.png")
    monkeypatch.setattr(doctor, "CHECKS", doctor.CHECKS[:1])
    monkeypatch.setattr(benchmark, "CASES", {"nms": next(iter(benchmark.CASES.values()))})
    monkeypatch.setattr(benchmark, "measure", lambda *_: {OURS: Measured([0.1], 1)})
    return tmp_path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=pytest.mark.slow) if c in ("train", "find") else c for c in COMMANDS],
)
def test_says_nothing_and_writes_the_same(command: str, here: Path, capfd) -> None:
    before = files(here)
    assert main([*COMMANDS[command], "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert progress._silences == []
    written = files(here) - before
    assert bool(written) == (command not in ("evaluate", "info", "doctor", "benchmark", "check"))


def test_every_command_has_it_but_that_which_prints_its_result_alone() -> None:
    def lacking(parser, name: str) -> list[str]:
        below = [
            a for a in parser._actions if hasattr(a, "choices") and isinstance(a.choices, dict)
        ]
        if not below:
            return [] if "--quiet" in parser._option_string_actions else [name]
        return [n for a in below for word, p in a.choices.items() for n in lacking(p, word)]

    assert lacking(build_parser(), "") == ["completion"]


def test_warnings_and_errors_stay(here: Path, capfd) -> None:
    Path("photos/broken.jpg").write_bytes(b"no image")
    assert main([*COMMANDS["predict"], "--quiet"]) == 1
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 2
    assert all(line.startswith("mlx_rcnn: ") for line in err.splitlines())
    assert "broken.jpg" in err and "1 failed, named above" in err
    assert main(["info", "--model", "none", "--quiet"]) == 2
    assert re.fullmatch(r"mlx_rcnn: error: .*\n", capfd.readouterr().err)


def test_a_name_that_is_no_text_goes_to_nothing(here: Path, capfd) -> None:
    Image.new("RGB", (64, 64)).save(os.fsdecode(b"photos/\xff.png"))
    assert main([*COMMANDS["predict"], "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_a_run_goes_on_with_it_or_without(here: Path) -> None:
    plain, quiet = (
        described(build_parser().parse_args([*COMMANDS["predict"], *more]), [], tiny.build())
        for more in ([], ["--quiet"])
    )
    assert plain == quiet


def test_a_block_is_silent_in_other_threads_and_blocks_within(capfd) -> None:
    with progress.silent():
        with progress.silent():
            pass
        with progress.bar(total=2, disable=False) as shown:
            shown.update()
        assert list(progress.bar([1, 2], unit="image")) == [1, 2]
        progress.say("nothing")
        progress.write("something")
    assert capfd.readouterr() == ("", "something\n")
    progress.say("again")
    assert list(progress.bar([1])) == [1]
    err = capfd.readouterr().err
    assert "again" in err and "1/1" in err


def test_a_run_of_training_is_silent_in_a_block(tmp_path: Path, capfd) -> None:
    with progress.silent():
        tiny.train(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_server(here: Path) -> None:
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", "--model", "model", "--port", str(port), "--quiet"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    server = subprocess.Popen([sys.executable, "-m", "mlx_rcnn", *words], **pipes)
    try:
        for _ in range(300):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    if b" 200 " in client.recv(100):
                        break
            time.sleep(0.1)
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=60) == (b"", b"")
        assert server.returncode == 0
    finally:
        server.kill()
