"""Old import paths: each leads to the new place and says so; the package's own code uses none."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import mlx_rcnn
from mlx_rcnn.moved import MOVED

ROOT = Path(__file__).resolve().parents[1]


def forget(old: str) -> None:
    sys.modules.pop(old, None)
    parent, name = old.rsplit(".", 1)
    vars(sys.modules.get(parent, mlx_rcnn)).pop(name, None)


@pytest.mark.parametrize("old", list(MOVED))
def test_an_old_path_warns_and_has_the_names(old: str) -> None:
    forget(old)
    with pytest.warns(DeprecationWarning, match=old) as caught:
        module = import_module(old)
    assert all(home in str(caught.list[-1].message) for home in MOVED[old])
    for home in MOVED[old]:
        new = import_module(home)
        own = [n for n, v in vars(new).items() if getattr(v, "__module__", None) == home]
        assert all(getattr(module, name) is getattr(new, name) for name in own)


def test_the_warning_points_at_the_line_that_uses_the_old_path(tmp_path: Path) -> None:
    script = tmp_path / "theirs.py"
    script.write_text(
        "from mlx_rcnn.images import load_image\nimport mlx_rcnn\nmlx_rcnn.visualize\n"
        "import mlx_rcnn.convert\nmlx_rcnn.convert.inert\n"
    )
    command = [sys.executable, "-W", "always::DeprecationWarning", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in (1, 3, 5):
        assert f"theirs.py:{line}: DeprecationWarning" in done.stderr


def test_patching_an_old_path_of_several_homes_reaches_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlx_rcnn.results.coco_results", len)
    assert import_module("mlx_rcnn.outputs.coco").coco_results is len
    with pytest.raises(AttributeError, match="mlx_rcnn.results.*has no attribute 'nothing'"):
        _ = import_module("mlx_rcnn.results").nothing


def test_no_module_of_ours_uses_an_old_path(tmp_path: Path) -> None:
    names = [
        ".".join(["mlx_rcnn", *path.relative_to(top).with_suffix("").parts])
        for top in (ROOT / "mlx_rcnn", ROOT)
        for path in sorted(top.rglob("*.py"))
        if top.name == "mlx_rcnn" or path.relative_to(top).parts[0] == "convert"
    ]
    needs_torch = () if find_spec("torch") else ("mlx_rcnn.benchmark.theirs",)
    names = [n.removesuffix(".__init__") for n in names if not n.endswith("__main__")]
    names = [n for n in names if n not in needs_torch]
    code = f"from importlib import import_module\nfor n in {names}: import_module(n)"
    command = [sys.executable, "-W", "error::DeprecationWarning:mlx_rcnn", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tab_completion_shows_the_public_names_and_nothing_else() -> None:
    assert dir(mlx_rcnn) == sorted(mlx_rcnn.__all__)
    assert all(getattr(mlx_rcnn, name) is not None for name in mlx_rcnn.__all__)


def test_a_name_that_never_was_is_an_error() -> None:
    with pytest.raises(AttributeError, match="mlx_rcnn.*has no attribute 'imagse'"):
        _ = mlx_rcnn.imagse
