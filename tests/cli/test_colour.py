"""Colours on a terminal alone, as NO_COLOR, FORCE_COLOR and TERM want them."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

import tiny
from mlx_rcnn.cli.colour import coloured, has_colours
from mlx_rcnn.cli.doctor import command as doctor
from mlx_rcnn.cli.main import main

RED, YELLOW, END = "\x1b[1;31m", "\x1b[1;33m", "\x1b[0m"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables is set, and TERM is that of a usual terminal."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def terminal() -> Iterator[tuple[TextIO, Any]]:
    """A terminal to write to, and a function that gives what it was sent."""
    own, other = pty.openpty()

    def sent() -> str:
        pieces = []
        while select.select([own], [], [], 0.05)[0]:
            pieces.append(os.read(own, 65536))
        return b"".join(pieces).decode()

    with open(other, "w") as stream:
        yield stream, sent
    os.close(own)


@pytest.mark.parametrize(
    ("environment", "on_terminal", "in_pipe"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
    ],
)
def test_when(environment, on_terminal, in_pipe, terminal, tmp_path: Path, monkeypatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert has_colours(terminal[0]) == on_terminal
    with open(tmp_path / "file", "w") as file:
        assert has_colours(file) == in_pipe
    assert has_colours(None) == in_pipe
    assert coloured("x", "red", terminal[0]) == (f"{RED}x{END}" if on_terminal else "x")


def test_errors_warnings_and_failures(terminal, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, sent = terminal
    wrong = doctor.CHECKS[0]._replace(compute=list)
    monkeypatch.setattr(doctor, "CHECKS", (wrong,))
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["info", "--model", "none"]) == 2
    assert sent().startswith(f"mlx_rcnn: {RED}error:{END} ")
    assert main(["doctor"]) == 1
    assert sent().startswith("mlx_rcnn: 1 of 1 failed")
    assert "\x1b" not in capsys.readouterr().out  # which is no terminal
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["doctor"]) == 1
    assert f"  {RED}FAILED{END} ValueError" in sent()
    assert main(["doctor", "--json", "-", "--quiet"]) == 1
    assert "\x1b" not in sent().split("mlx_rcnn: ")[0]


def test_warnings(terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mlx_rcnn.cli.main import _show_warning

    stream, sent = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    _show_warning("two\n  lines")
    assert sent() == f"mlx_rcnn: {YELLOW}warning:{END} two lines\r\n"


def run(module: bool, *words: str, **environment: str) -> tuple[int, str, str]:
    """The command in a process of its own, into pipes."""
    script = Path(sys.executable).with_name("mlx_rcnn")
    start = [sys.executable, "-m", "mlx_rcnn"] if module else [str(script)]
    env = {**os.environ, "COLUMNS": "100", **environment}
    done = subprocess.run([*start, *words], env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(
    not Path(sys.executable).with_name("mlx_rcnn").exists(), reason="the command is not installed"
)
@pytest.mark.parametrize(("words", "code"), [(["predict", "--help"], 0), (["data", "check"], 2)])
def test_the_module_is_the_command_and_pipes_get_no_colours(words: list[str], code: int) -> None:
    one, two = run(True, *words), run(False, *words)
    assert one == two and one[0] == code
    assert "\x1b" not in one[1] + one[2] and "__main__" not in one[1] + one[2]
    assert "mlx_rcnn" in one[1] + one[2]


def test_what_argparse_makes_up_is_plain(capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # Python 3.14 colours its help then
    for words, name in ((["predict"], "predict"), (["data", "check"], "data check")):
        assert main(words) == 2
        text = capfd.readouterr().err.replace(f"{RED}error:{END}", "error:")
        assert "\x1b" not in text and text.endswith(f"(see mlx_rcnn {name} --help)\n")


@pytest.mark.slow
def test_bars_in_a_pipe(tmp_path: Path, capfd) -> None:
    tiny.train(tmp_path / "run")  # bars within bars, and lines above them
    err = capfd.readouterr().err
    assert "epoch 1" in err and "\x1b" not in err
