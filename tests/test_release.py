"""What a release changes and checks: links that work on the index's page, one version."""

from __future__ import annotations

import re
import shutil
import sys
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

import mlx_rcnn

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).resolve().parents[1]
URL = "https://example.org/someone/mlx_rcnn"

spec = spec_from_file_location("release", ROOT / ".github" / "release.py")
assert spec is not None and spec.loader is not None
release = module_from_spec(spec)
spec.loader.exec_module(release)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a release reads, with a heading for the version."""
    for name in ("README.md", "pyproject.toml", "mlx_rcnn/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(f"## [{mlx_rcnn.__version__}] - 2030-01-01\n")
    return tmp_path


def test_links_of_the_readme_become_links_to_files_that_exist(checkout: Path) -> None:
    tag = f"v{mlx_rcnn.__version__}"
    release.release(checkout, URL, tag)
    text = (checkout / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert all(target.startswith("https://") for target in targets)
    ours = [re.split(rf"/(?:raw|blob)/{tag}/", t)[1] for t in targets if t.startswith(URL)]
    assert len(ours) > 5
    assert [name for name in ours if not (ROOT / name).exists()] == []
    assert f"]({URL}/raw/{tag}/docs/blood_cells.jpg)" in text  # a picture, not a page about it


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in Python 3.11")
def test_urls_are_in_the_project_table(checkout: Path) -> None:
    release.release(checkout, URL, f"v{mlx_rcnn.__version__}")
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Homepage"] == URL
    assert project["scripts"] == {"mlx_rcnn": "mlx_rcnn.cli:main"}


def test_a_tag_that_is_not_the_version_or_has_no_heading_is_refused(checkout: Path) -> None:
    before = (checkout / "README.md").read_bytes()
    with pytest.raises(SystemExit, match=r"tag v9\.9\.9: expected v"):
        release.release(checkout, URL, "v9.9.9")
    (checkout / "CHANGELOG.md").write_text("## [Unreleased]\n")
    with pytest.raises(SystemExit, match="expected a heading"):
        release.release(checkout, URL, f"v{mlx_rcnn.__version__}")
    assert (checkout / "README.md").read_bytes() == before


def test_the_recipe_for_conda_says_what_the_package_says() -> None:
    recipe = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text(encoding="utf-8"))
    own = metadata.metadata("mlx-rcnn")
    assert recipe["context"]["version"] == mlx_rcnn.__version__
    assert f">={recipe['context']['python_min']}" == own["Requires-Python"]
    assert recipe["package"]["name"] == own["Name"]
    assert recipe["about"]["summary"] == own["Summary"]
    assert recipe["about"]["license"] == own["License-Expression"]
    (ROOT / "packaging/conda" / recipe["source"]["path"] / recipe["about"]["license_file"]).stat()
    [script] = [e for e in metadata.entry_points(group="console_scripts") if e.name == "mlx_rcnn"]
    assert recipe["build"]["python"]["entry_points"] == [f"{script.name} = {script.value}"]
    python, *needed = recipe["requirements"]["run"]
    assert python == "python >=${{ python_min }}"
    asked = [text for text in metadata.requires("mlx-rcnn") or () if "extra ==" not in text]
    assert sorted(text.replace(" ", "") for text in needed) == sorted(asked)
    build = re.findall(r"^requires = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    [setuptools] = re.findall(r'"(setuptools>=\d+)"', build[0])
    assert setuptools.replace(">", " >") in recipe["requirements"]["host"]
