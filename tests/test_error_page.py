"""docs/errors.md: the messages that it explains are those of the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^\| `(.+?)` \| ", PAGE, re.MULTILINE)
GAP = "\0"


def texts() -> Iterator[str]:
    """Every string of the source, what is filled in being a gap."""
    for folder in ("mlx_rcnn", "convert"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(
                        part.value if isinstance(part, ast.Constant) else GAP
                        for part in node.values
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


TEXTS = set(texts())


def holds(message: str) -> bool:
    """Whether one string has all that is quoted, in order, and something where ``...`` stands."""
    words = [part.strip() for part in message.split("...") if part.strip()]
    gap = rf"[^\n]*(?:{GAP}|\.\.\.)[^\n]*"  # the text itself may have three dots
    pattern = re.compile(gap.join(map(re.escape, words)))
    likely = (text for text in TEXTS if all(word in text for word in words))
    return any(pattern.search(text) for text in likely)


def test_there_are_many() -> None:
    assert len(MESSAGES) > 40


@pytest.mark.parametrize("message", MESSAGES)
def test_it_is_in_the_source(message: str) -> None:
    # What is quoted must say something: three words beside what is filled in.
    assert len(re.sub(r"\.\.\.", " ", message).split()) >= 3
    assert holds(message), f"no such message: {message}"


def test_a_message_that_is_not_there_is_told() -> None:
    assert not holds("no model ...: expected a unicorn")
    assert not holds("expected a directory ... no model")
