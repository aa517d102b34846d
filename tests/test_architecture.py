"""docs/architecture.md: its picture is of the code as it is, and the files it names exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_picture_is_current() -> None:
    command = [sys.executable, str(ROOT / "docs" / "draw_imports.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_files_it_names_exist() -> None:
    named = {path for path in re.findall(r"`([\w/.]+\.(?:py|svg|md))`", PAGE) if "/" in path}
    assert len(named) > 20
    missing = [p for p in named if not (ROOT / p).exists() and not (ROOT / "mlx_rcnn" / p).exists()]
    assert not missing
