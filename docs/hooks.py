"""What MkDocs does beside building pages: sources for the reference, and files beyond docs/.

Pages link to files of the repository (examples, the changelog) by relative paths, which work
where the repository is shown. In the site such a file lies under ``repository/``, and the link
follows.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
DOCS, LAID = ROOT / "docs", "repository"
LINK = re.compile(r"(!?\[[^\]]*\]\()(?!\w+:|#|/)([^)#\s]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_startup(**_: Any) -> None:
    """Lay out the package as it installs, before mkdocstrings looks for its folder."""
    sources = ROOT / "build" / "sources" / "mlx_rcnn"
    shutil.rmtree(sources, ignore_errors=True)
    shutil.copytree(ROOT / "mlx_rcnn", sources)  # a copy, as no link is followed
    shutil.copytree(ROOT / "convert", sources / "convert")


def on_config(config: Any) -> Any:
    """Put pages the nav does not name at its end."""
    named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    if more := sorted(there - named):
        config.nav.append({"More": more})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the files of the repository that pages link to, and those that these link to."""
    todo = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    seen = set()
    while todo:
        page, text = todo.pop()
        for name in _linked(page, text):
            if name.startswith("docs/") or name in seen or not (ROOT / name).is_file():
                continue
            seen.add(name)
            content = (ROOT / name).read_bytes()
            files.append(File.generated(config, f"{LAID}/{name}", content=content))
            if name.endswith(".md"):
                todo.append((name, content.decode()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Have links to files of the repository lead to where these are in the site."""
    uri = page.file.src_uri
    here = uri.removeprefix(f"{LAID}/") if uri.startswith(f"{LAID}/") else f"docs/{uri}"

    def moved(found: re.Match[str]) -> str:
        name = normpath(f"{dirname(here)}/{found[2]}").lstrip("/")
        place = name.removeprefix("docs/") if name.startswith("docs/") else f"{LAID}/{name}"
        return f"{found[1]}{relpath(place, dirname(uri) or '.')}{found[3]}"

    parts = FENCE.split(markdown)  # code is left as it is
    return "".join(p if i % 2 else LINK.sub(moved, p) for i, p in enumerate(parts))


def _linked(page: str, text: str) -> list[str]:
    """Paths from the top of the repository that a file's links lead to."""
    found = LINK.findall("".join(FENCE.split(text)[::2]))
    return [os.path.normpath(os.path.join(os.path.dirname(page), link)) for _, link, _ in found]
