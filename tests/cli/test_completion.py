"""A shell that has read the script completes commands, flags, values and files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_rcnn.cli import main
from mlx_rcnn.cli.arguments import build_parser


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str], tmp_path: Path, request) -> Path:
    pytest.importorskip("shtab")
    assert main(["completion", request.param]) == 0
    path = tmp_path / "script"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("pred", {"predict"}),
        ("evaluate --met", {"--metric"}),
        ("predict --dtype ", {"float32", "float16", "bfloat16"}),
        ("predict phot", {"photo.jpg"}),
    ],
)
def test_bash(script: Path, tmp_path: Path, typed: str, offered: set[str]) -> None:
    (tmp_path / "photo.jpg").touch()
    words = typed.split(" ")
    asked = (
        f"source {script}; COMP_WORDS=(mlx_rcnn {' '.join(words)}); COMP_CWORD={len(words)}; "
        '_shtab_mlx_rcnn; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    if words[-1] == "":
        asked = asked.replace("); COMP_CWORD", '""); COMP_CWORD', 1)
    done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True)
    assert offered <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize("script", ["zsh", "fish"], indirect=True)
def test_others(script: Path, request) -> None:
    shell = request.node.callspec.params["script"]
    text = script.read_text()
    assert all(word in text for word in ("evaluate", "score-thresh", "bfloat16"))
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n", str(script)], check=True)


def test_without_shtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert "pip install 'mlx-rcnn[completion]'" in capsys.readouterr().err


def test_the_page_of_commands_has_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs/commands.md").read_text()
    rows = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")]
    (commands,) = (a for a in build_parser()._actions if a.choices)
    assert rows[: len(commands.choices)] == list(commands.choices)
