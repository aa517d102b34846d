"""The rename engine: an ordered table of rules turns a checkpoint's keys into ours, and back.

Every source key must match a rule, which is data. The same table read backwards gives the source's
keys and layouts again, so it is written once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import mlx.core as mx

from mlx_rcnn.messages import listing

from .layouts import LAYOUTS


class Rule(NamedTuple):
    """How keys that match a pattern whole are renamed, and how the array's layout changes."""

    pattern: str  # a regular expression; its capturing groups are neither nested nor repeated
    target: str | None  # our name, with ``\1``, ``\2`` for the groups; ``None`` drops the key
    layout: str = "same"  # a key of :data:`~mlx_rcnn.convert.layouts.LAYOUTS`
    # The source's key for the way back, with the same groups. By default the pattern itself, which
    # must then be plain text and groups; where it has several spellings, the one to write.
    export: str | None = None


class Renamed(NamedTuple):
    """``weights`` by our names, the source keys ``dropped``, and our name -> ``origin``'s key."""

    weights: dict[str, mx.array]
    dropped: list[str]
    origin: dict[str, str]


def rename(
    source: Mapping[str, mx.array], rules: Sequence[Rule], pool_size: tuple[int, int] = (7, 7)
) -> Renamed:
    """Weights by our names; ValueError for keys without a rule (all listed) or two for one name."""
    weights: dict[str, mx.array] = {}
    origin: dict[str, str] = {}
    dropped: list[str] = []
    unknown: list[str] = []
    for key, value in source.items():
        rule, target = _apply(key, rules)  # the first one that matches a key applies
        if rule is None:
            unknown.append(key)
        elif target is None:
            dropped.append(key)
        elif target in origin:
            raise ValueError(f"{key!r} and {origin[target]!r} both stand for {target!r}")
        else:
            origin[target] = key
            # (ph, pw) of the RoI pooling, for the layout ``"flat"``
            weights[target] = _relayout(value, rule.layout, "forward", pool_size, key)
    if unknown:
        raise ValueError(f"no rule for {listing(unknown)}")
    return Renamed(weights, dropped, origin)


def rename_back(
    weights: Mapping[str, mx.array], rules: Sequence[Rule], pool_size: tuple[int, int] = (7, 7)
) -> dict[str, mx.array]:
    """Read a table of rules backwards: the inverse of :func:`rename`, bit for bit."""
    source: dict[str, mx.array] = {}
    unknown: list[str] = []
    for name, value in weights.items():
        # the first one that leads back to a name gives its key, in the spelling it exports
        key, layout = source_key(name, rules)
        if key is None:
            unknown.append(name)
        else:
            source[key] = _relayout(value, layout, "backward", pool_size, name)
    if unknown:
        raise ValueError(f"no rule leads to {listing(unknown)}")
    return source


def source_key(name: str, rules: Sequence[Rule]) -> tuple[str | None, str]:
    """The key that a table of rules turns into ``name``, and its layout; ``None`` without one."""
    for rule in rules:
        if rule.target is None:
            continue
        ours, template = _inverse(rule)
        if match := ours.fullmatch(name):
            key = match.expand(template)
            # It counts only if the table, read forwards, does turn it into ``name``.
            applied, target = _apply(key, rules)
            if applied is not None and target == name:
                return key, applied.layout
    return None, "same"


def _apply(key: str, rules: Sequence[Rule]) -> tuple[Rule | None, str | None]:
    """The first rule that matches ``key``, and our name."""
    for rule in rules:
        if match := re.fullmatch(rule.pattern, key):
            return rule, None if rule.target is None else match.expand(rule.target)
    return None, None


def _relayout(value: mx.array, layout: str, way: str, pool: tuple[int, int], key: str) -> mx.array:
    try:
        moved: mx.array = getattr(LAYOUTS[layout], way)(value, pool)
    except ValueError as error:
        raise ValueError(f"{key!r} {error}") from error
    return moved


@cache
def _inverse(rule: Rule) -> tuple[re.Pattern[str], str]:
    """A pattern for the names that a rule gives, and the template of their keys."""
    groups, plain = _groups(rule.pattern)
    export = rule.export if rule.export is not None else plain
    if export is None:
        raise ValueError(f"{rule} needs export: its pattern is more than text and groups")
    seen: set[str] = set()

    def group(match: re.Match[str]) -> str:
        name = f"g{match[1]}"
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>{groups[int(match[1]) - 1]})"

    assert rule.target is not None
    parts = re.split(r"(\\\d)", rule.target)
    ours = "".join(re.sub(r"\\(\d)", group, p) if p[:1] == "\\" else re.escape(p) for p in parts)
    return re.compile(ours), re.sub(r"\\(\d)", r"\\g<g\1>", export)


_TOKEN = re.compile(r"\\.|\[[^]]*\]|\(\?[:=!]|.")
_LITERAL = re.compile(r"[A-Za-z0-9_]|\\[^A-Za-z0-9]")


def _groups(pattern: str) -> tuple[list[str], str | None]:
    r"""The insides of a pattern's groups, and its text with ``\1`` for them if it has one."""
    groups: list[str] = []
    text, plain = "", True
    depth, start = 0, None
    for token in _TOKEN.finditer(pattern):
        part = token[0]
        if part[0] == "(":
            if part == "(" and depth:
                raise ValueError(f"pattern {pattern!r}: expected groups that are not nested")
            start = token.end() if part == "(" else start
            plain, depth = plain and (part == "(" or depth > 0), depth + 1
        elif part == ")":
            depth -= 1
            if depth == 0 and start is not None:
                if pattern[token.end() :][:1] in tuple("?*+{"):
                    raise ValueError(f"pattern {pattern!r}: expected groups that are not repeated")
                groups.append(pattern[start : token.start()])
                text, start = f"{text}\\{len(groups)}", None
        elif depth == 0:
            plain, text = plain and bool(_LITERAL.fullmatch(part)), text + part[-1]
    return groups, text if plain else None
