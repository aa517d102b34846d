"""What the site is made of is current: the reference, the models, the pictures, the nav."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from mlx_rcnn.convert.published import KNOWN

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
API = DOCS / "api"
NAV = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2].partition("\n\n")[0]


def script(name: str) -> ModuleType:
    """A script of docs/, its main part not run."""
    spec = spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_current() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in API.glob("*.md")}
    assert there == script("write_api").pages(), "old: python docs/write_api.py"


def test_the_reference_has_every_public_name() -> None:
    golden = (ROOT / "tests/goldens/public_api.txt").read_text(encoding="utf-8")
    text = "\n".join(path.read_text(encoding="utf-8") for path in API.glob("*.md"))
    for line in golden.splitlines():
        name = re.match(r"[\w.]+", line)[0]  # type: ignore[index]
        short = name.rsplit(".", 1)[-1]
        # Methods are of their class; `ops` is a module, which has a page.
        if re.match(r"mlx_rcnn\.[A-Z]\w+\.", name) or name == "mlx_rcnn.ops":
            continue
        assert f"heading: {name}\n" in text or f"`{short}`" in text, name


def test_the_models_are_current() -> None:
    page = script("write_models").page()
    assert (DOCS / "models.md").read_text(encoding="utf-8") == page, "python docs/write_models.py"


def test_the_diagram_is_current() -> None:
    drawn = script("draw_stages").draw()
    assert (DOCS / "two_stages.svg").read_text("utf-8") == drawn, "python docs/draw_stages.py"


def test_the_nav_names_pages_that_exist() -> None:
    named = re.findall(r": ([\w/]+\.md)$", NAV, re.MULTILINE)
    assert len(named) > 25 and len(set(named)) == len(named)
    assert [name for name in named if not (DOCS / name).exists()] == []


def test_the_readme_says_of_models_what_the_tables_say() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"All {len(KNOWN)} of them" in readme
    known = {entry.title.removesuffix(".COCO_V1"): entry for entry in KNOWN.values()}
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+|-) \|", readme, re.MULTILINE)
    assert len(rows) == 7
    for name, box, other in rows:
        entry = known[name]
        assert (box, other) == (f"{entry.box}", f"{entry.other}" if entry.other else "-"), name


@pytest.mark.parametrize("name", ["repository/x.md", "page.md"])
def test_links_of_the_site_follow_where_files_are_laid(name: str) -> None:
    pytest.importorskip("mkdocs", reason="pip install '.[docs]' brings mkdocs")
    hooks = script("hooks")
    page = type("Page", (), {"file": type("File", (), {"src_uri": name})})
    text = "[a](examples/a.py) ![b](../LICENSE) [c](data.md#x) [d](https://e.org) `[e](f)`\n"
    text += "```\n[g](h.py)\n```\n"
    moved = hooks.on_page_markdown(text, page)
    # From docs/page.md, and from x.md at the top of the repository.
    wanted = (
        "[a](examples/a.py) ![b](repository/LICENSE) [c](data.md#x)"
        if name == "page.md"
        else "[a](examples/a.py) ![b](LICENSE) [c](data.md#x)"
    )
    assert moved.startswith(wanted) and "[g](h.py)" in moved and "(https://e.org)" in moved
