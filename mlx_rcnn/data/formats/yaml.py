"""The YAML of a ``data.yaml``: what tools write into one, and a clear error for the rest.

Mappings and lists by indentation or in brackets, quoted and plain text, comments and block text.
Anchors, tags, merged keys and several documents are refused: no such file needs them, and PyYAML
would be one more thing to install. Plain values stay text, so that a class may be called ``no``.
"""

from __future__ import annotations

import re
from typing import Any

_KEY = re.compile(
    r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s"'\[{\-#][^#]*?|-[^\s#][^#]*?)\s*:(\s|$)"""
)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "/": "/", "0": "\0", " ": " "}
_HEX = {"x": 2, "u": 4, "U": 8}
_REFUSED = {"&": "an anchor", "*": "an alias", "!": "a tag", "%": "a directive", "`": "a `"}
_DEEPEST = 20


def read_yaml(text: str, name: str) -> dict[str, object]:
    """A YAML mapping; keys are text, values text, lists, dicts or ``None``; errors say the line."""
    reader = _Reader(text.lstrip("\ufeff"), name)
    first = reader.peek()
    if first is None:
        return {}
    found = reader.block(first[0], 0)
    if reader.peek() is not None:
        raise reader.error("is indented otherwise than the lines above")
    if not isinstance(found, dict):
        raise ValueError(f"{name}: expected keys and values, got a list")
    return found


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self.lines = text.splitlines()
        self.name, self.at = name, 0

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{self.name}, line {min(self.at, len(self.lines) - 1) + 1}: {problem}")

    def peek(self) -> tuple[int, str] | None:
        """Indentation and content of the next line that has any."""
        while self.at < len(self.lines):
            line = _without_comment(self.lines[self.at])
            content = line.strip()
            if content and not (content == "---" and not any(map(_full, self.lines[: self.at]))):
                if line[: len(line) - len(line.lstrip())].strip(" "):
                    raise self.error("is indented by a tab: expected blanks")
                if content in ("---", "..."):
                    raise self.error("a second document: expected one")
                return len(line) - len(line.lstrip(" ")), content
            self.at += 1
        return None

    def block(self, indent: int, depth: int) -> object:
        """What starts at the next line, as far as it is indented so."""
        if depth > _DEEPEST:
            raise self.error(f"more than {_DEEPEST} levels")
        found = self.peek()
        is_list = found is not None and (found[1] == "-" or found[1].startswith("- "))
        return self.sequence(indent, depth) if is_list else self.mapping(indent, depth)

    def sequence(self, indent: int, depth: int) -> list[object]:
        found: list[object] = []
        while (line := self.peek()) is not None and line[0] == indent:
            content = line[1]
            if content != "-" and not content.startswith("- "):
                break
            rest = content[1:].strip()
            if rest and _KEY.match(rest):
                raise self.error("a mapping in a list is not read")
            found.append(self.value(rest, indent, depth))
        return found

    def mapping(self, indent: int, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        while (line := self.peek()) is not None and line[0] >= indent:
            if line[0] > indent:
                raise self.error("is indented more than the line above")
            match = _KEY.match(line[1])
            if match is None:
                raise self.error(f"{line[1][:40]!r}: expected 'key: value'")
            key = self.scalar(match[1])
            if key in found or key == "<<":
                raise self.error(
                    f"the key {key!r} comes up twice" if key in found else "merged keys"
                )
            found[str(key)] = self.value(line[1][match.end() :].strip(), indent, depth, True)
        return found

    def value(self, rest: str, indent: int, depth: int, of_key: bool = False) -> object:
        """What stands behind a key or a dash on this line, or below it."""
        if re.fullmatch(r"[|>][+\-\d]*", rest):
            return self.block_text(indent)
        if rest.startswith(("[", "{")):
            return self.flow(rest)
        self.at += 1
        below = self.peek()
        deeper = below is not None and below[0] > indent
        if not rest:
            same = (
                below is not None and of_key and below[0] == indent and below[1][:2] in ("-", "- ")
            )
            return self.block(below[0], depth + 1) if below and (deeper or same) else None
        if deeper:
            raise self.error("a value over several lines is not read: expected it in quotes")
        self.at -= 1
        found = self.scalar(rest)
        self.at += 1
        return found

    def block_text(self, indent: int) -> str:
        self.at += 1
        lines = []
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.strip() and len(line) - len(line.lstrip(" ")) <= indent:
                break
            lines.append(line.strip())
            self.at += 1
        return "\n".join(lines)

    def flow(self, rest: str) -> object:
        """A list or mapping in brackets, perhaps over several lines."""
        found = _Flow(rest, self).whole()
        self.at += 1
        return found

    def scalar(self, text: str) -> str | None:
        if text[:1] in ('"', "'"):
            try:
                if _end_of_quote(text, 0) == len(text):
                    return self.unquoted(text)
            except IndexError:
                pass
            raise self.error(f"{text[:40]!r}: a quote is not closed, or text follows it")
        if text[:1] in _REFUSED:
            raise self.error(f"{text[:40]!r}: {_REFUSED[text[0]]} is not read")
        return text or None

    def unquoted(self, text: str) -> str:
        inner = text[1:-1]
        if text[0] == "'":
            return inner.replace("''", "'")

        def escaped(match: re.Match[str]) -> str:
            letter, digits = match[1], match[2]
            if letter in _ESCAPES:
                return _ESCAPES[letter] + digits
            count = _HEX.get(letter, 0)
            if not count or len(digits) < count:
                raise self.error(f"{text[:40]!r}: an escape that is not read")
            return chr(int(digits[:count], 16)) + digits[count:]

        return re.sub(r"\\(.)([0-9a-fA-F]{0,8})", escaped, inner)


class _Flow:
    """``[a, 'b']`` and ``{0: a}``, nested."""

    def __init__(self, text: str, reader: _Reader) -> None:
        self.text, self.reader, self.at = text, reader, 0

    def whole(self) -> object:
        found = self.item(0)
        if self.text[self.at :].strip():
            raise self.reader.error(f"{self.text[self.at :].strip()[:40]!r} follows a bracket")
        return found

    def here(self) -> str:
        """The character that is next, of this line or the one below."""
        while self.at >= len(self.text):
            self.reader.at += 1
            if self.reader.at >= len(self.reader.lines):
                raise self.reader.error("a bracket is not closed")
            self.text += " " + _without_comment(self.reader.lines[self.reader.at]).strip()
        return self.text[self.at]

    def next(self) -> str:
        while self.here().isspace():
            self.at += 1
        return self.here()

    def item(self, depth: int) -> object:
        if depth > _DEEPEST:
            raise self.reader.error(f"more than {_DEEPEST} levels")
        opening = self.next()
        if opening == "[":
            return self.entries("]", depth)
        if opening == "{":
            pairs = self.entries("}", depth)
            keys = [key for key, _ in pairs]
            if len(set(keys)) < len(keys):
                raise self.reader.error("a key comes up twice")
            return dict(pairs)
        return self.plain(",]}")

    def entries(self, closing: str, depth: int) -> list[Any]:
        self.at += 1
        found: list[Any] = []
        while self.next() != closing:
            if closing == "}":
                key = self.plain(":")
                if self.next() != ":":
                    raise self.reader.error("expected 'key: value' in {}")
                self.at += 1
                empty = self.next() in ",}"
                found.append((str(key), None if empty else self.item(depth + 1)))
            else:
                found.append(self.item(depth + 1))
            if self.next() == ",":
                self.at += 1
            elif self.next() != closing:
                raise self.reader.error(f"expected , or {closing} in brackets")
        self.at += 1
        return found

    def plain(self, ends: str) -> str | None:
        quoted = self.next() in "\"'"
        start = self.at
        if quoted:
            try:
                self.at = _end_of_quote(self.text, start)
            except IndexError:
                raise self.reader.error("a quote is not closed") from None
        while not quoted and self.here() not in ends:
            self.at += 1
        return self.reader.scalar(self.text[start : self.at].strip())


def _end_of_quote(text: str, start: int) -> int:
    """Behind the quote that closes the one at ``start``; ``IndexError`` without one."""
    quote, at = text[start], start + 1
    while True:
        if text[at] == "\\" and quote == '"':
            at += 2
        elif text[at] != quote:
            at += 1
        elif quote == "'" and text[at + 1 : at + 2] == "'":
            at += 2
        else:
            return at + 1


def _full(line: str) -> bool:
    return bool(_without_comment(line).strip())


def _without_comment(line: str) -> str:
    at = 0
    while at < len(line):
        if line[at] in "\"'" and (at == 0 or line[at - 1] in " \t[{,:-"):
            try:
                at = _end_of_quote(line, at)
            except IndexError:
                return line
        elif line[at] == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at]
        else:
            at += 1
    return line
