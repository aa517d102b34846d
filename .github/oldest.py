"""Print pip's constraints that hold each dependency of the package at its lowest version.

python .github/oldest.py > oldest.txt && pip install -e '.[cpu,test]' -c oldest.txt
"""

from __future__ import annotations

import re
from pathlib import Path


def lowest(text: str) -> list[str]:
    """Of pyproject.toml, ``name==version`` for each entry of ``dependencies``."""
    block = text.partition("\ndependencies = [")[2].partition("\n]")[0]
    return [f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', block)]


if __name__ == "__main__":
    print("\n".join(lowest((Path(__file__).parents[1] / "pyproject.toml").read_text())))
