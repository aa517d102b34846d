"""Makes Markdown of what docstrings have of reStructuredText: references and examples."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^(?!>>>)\S.*\n?)*)+", re.MULTILINE)
ROLE = re.compile(r":[a-z]+:`(~?)([^`]+)`")


class Roles(griffe.Extension):
    """A reference becomes its name as code; ``~`` leaves the last part alone, as in Sphinx."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one docstring."""
        if obj.docstring:
            text = EXAMPLE.sub(_fenced, obj.docstring.value)
            obj.docstring.value = ROLE.sub(_name, text)


def _fenced(found: re.Match[str]) -> str:
    return f"```pycon\n{found[0].rstrip()}\n```\n"


def _name(found: re.Match[str]) -> str:
    return f"`{found[2].rsplit('.', 1)[-1] if found[1] else found[2]}`"
