"""Make this checkout ready for the package index: its links must work on a page of its own.

Run by the release workflow on its own clone: `python .github/release.py URL TAG`, with the
repository's URL. It checks that TAG is the version, writes project URLs into pyproject.toml and
turns the README's relative links into links to the tagged files. A fork releases under its own URL.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")


def absolute_links(text: str, url: str, tag: str) -> str:
    """Markdown with its relative links made absolute; pictures point at the files themselves."""

    def absolute(found: re.Match[str]) -> str:
        kind = "raw" if found[1] else "blob"
        return f"{found[1]}[{found[2]}]({url}/{kind}/{tag}/{found[3]})"

    return LINK.sub(absolute, text)


def with_urls(pyproject: str, url: str, tag: str) -> str:
    """pyproject.toml with its project URLs."""
    urls = {
        "Homepage": url,
        "Documentation": f"{url}/tree/{tag}/docs",
        "Changelog": f"{url}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{url}/issues",
    }
    table = "\n".join(["[project.urls]", *(f'{name} = "{to}"' for name, to in urls.items())])
    return pyproject.replace("[project.scripts]", f"{table}\n\n[project.scripts]", 1)


def release(root: Path, url: str, tag: str) -> None:
    """Rewrite README.md and pyproject.toml below ``root``; SystemExit if TAG is not the version."""
    source = (root / "mlx_rcnn" / "__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if tag != f"v{version}":
        raise SystemExit(f"tag {tag}: expected v{version}, the version in mlx_rcnn/__init__.py")
    if f"## [{version}]" not in (root / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise SystemExit(f"CHANGELOG.md: expected a heading `## [{version}]`")
    readme, project = root / "README.md", root / "pyproject.toml"
    links = absolute_links(readme.read_text(encoding="utf-8"), url, tag)
    readme.write_text(links, encoding="utf-8")
    urls = with_urls(project.read_text(encoding="utf-8"), url, tag)
    project.write_text(urls, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python .github/release.py URL TAG")
    release(ROOT, sys.argv[1].rstrip("/"), sys.argv[2])
