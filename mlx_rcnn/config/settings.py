"""Config fields as users set them one by one: read from text, and named where one would help."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Union, get_args, get_origin, get_type_hints

from ..messages import nearest
from .backbone import (
    AlexNetConfig,
    MobileNetFPNConfig,
    ResNetConfig,
    ResNetFPNConfig,
    VGGConfig,
)
from .detector import (
    CascadeMaskRCNNConfig,
    CascadeRCNNConfig,
    FasterRCNNConfig,
    FastRCNNConfig,
    KeypointRCNNConfig,
    MaskRCNNConfig,
    ProposalNetworkConfig,
    RCNNConfig,
)
from .proposals import AnchorSizes

_CONFIGS = (
    FasterRCNNConfig,
    MaskRCNNConfig,
    KeypointRCNNConfig,
    FastRCNNConfig,
    CascadeRCNNConfig,
    CascadeMaskRCNNConfig,
    ProposalNetworkConfig,
    RCNNConfig,
    ResNetFPNConfig,
    ResNetConfig,
    MobileNetFPNConfig,
    VGGConfig,
    AlexNetConfig,
)
_OPTIONS = ("dtype", "style", "state")  # of load, and flags of their own
_SWITCHES = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_SHOWN = 80  # characters of a value in an error


def read_setting(text: str) -> tuple[str, object]:
    """A config field and its value as a user writes them, such as ``box_nms_thresh=0.4``."""
    name, sign, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not sign:
        raise ValueError(f"{text!r} given, expected FIELD=VALUE{nearest(name, kinds())}")
    if name in _OPTIONS:
        raise ValueError(f"{name} is no field of a config: expected --{name} {value or 'VALUE'}")
    if name not in kinds():
        raise ValueError(f"no config has a field {name!r}{nearest(name, kinds())}")
    # Sequences are numbers between commas, with brackets where they are nested; ``none`` is
    # ``None``.
    return name, _read(name, value, kinds()[name])


@cache
def kinds() -> Mapping[str, tuple[object, ...]]:
    """The types each field may have, in all configs; a module for a backbone is none of them."""
    found: dict[str, list[object]] = {}
    for config in _CONFIGS:
        hints = get_type_hints(config)
        for item in fields(config):
            hint = hints[item.name]
            union = get_origin(hint) in (Union, UnionType)
            for kind in get_args(hint) if union else (hint,):
                if item.name != "backbone" and kind not in found.setdefault(item.name, []):
                    found[item.name].append(kind)
    return {name: tuple(types) for name, types in found.items() if types}


def cure(names: Iterable[str]) -> str:
    """How to set fields that an error is about, to end its message with; empty without any."""
    listed = [name for name in dict.fromkeys(names) if name in kinds()]
    if not listed:
        return ""
    flags = " ".join(f"--set {name}=..." for name in listed)
    return f" (to be set: {flags}; in Python load(..., {'=..., '.join(listed)}=...))"


def fields_named(message: str) -> list[str]:
    """The fields whose values a message is about: ``norm_groups`` of ``norm_groups=32: does``."""
    words = re.findall(r"\b([a-z]\w*)(?==| has \d)", message)
    return [word for word in dict.fromkeys(words) if word in kinds()]


def _read(name: str, text: str, types: tuple[object, ...]) -> object:
    wrong = ValueError(f"{name}={_short(text)}: expected {_expected(types)}")
    if text.lower() in ("none", "null"):
        if NoneType in types:
            return None
        raise wrong
    sequences = [kind for kind in types if get_origin(kind) is tuple]
    if not text:
        raise wrong
    if str in types:
        return _unquoted(text)
    if bool in types:
        if text.lower() not in _SWITCHES:
            raise wrong
        return _SWITCHES[text.lower()]
    if name == "class_names":  # in all the ways of names: see config.categories
        return text
    if any(get_args(kind)[0] is str for kind in sequences):
        return tuple(_unquoted(part.strip()) for part in text.strip("()[]").split(","))
    value = _number_or_row(text, types, sequences)
    if value is None:
        raise wrong
    return value


def _number_or_row(text: str, types: tuple[object, ...], sequences: list[object]) -> object:
    """A number, or a tuple of them; ``None`` if the text is neither."""
    try:
        value = _frozen(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    fits = (_fit(value, kind) for kind in (int, float, *sequences) if kind in types)
    return next((fit for fit in fits if fit is not None), None)


def _fit(value: object, kind: object) -> object:
    """A value as a kind, ``None`` if it is of another."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        values = value if isinstance(value, tuple) else (value,)
        if inner[-1] is not Ellipsis and len(values) != len(inner):
            return None
        each = inner if inner[-1] is not Ellipsis else (inner[0],) * len(values)
        items = tuple(_fit(v, k) for v, k in zip(values, each, strict=True))
        return None if None in items else items
    if kind == AnchorSizes:
        return _fit(value, tuple[AnchorSizes, ...] if isinstance(value, tuple) else float | int)
    if type(value) is int and kind in (int, float, float | int):
        return float(value) if kind is float else value
    return value if type(value) is float and kind in (float, float | int) else None


def _frozen(value: object) -> object:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _expected(types: tuple[object, ...]) -> str:
    """The types of a field in words."""
    words = [_word(kind) for kind in types if kind is not NoneType]
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
    return " or ".join(words + ["none"] * (NoneType in types))


def _word(kind: object) -> str:
    if get_origin(kind) is not tuple:
        simple: dict[object, str] = {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            str: "a word",
        }
        return simple.get(kind, "numbers")
    inner = get_args(kind)
    several = inner[-1] is Ellipsis
    if inner[0] == AnchorSizes:
        return "numbers between commas, or rows of them such as (32,),(64,)"
    if get_origin(inner[0]) is tuple:
        return "pairs of whole numbers such as (0,1),(1,2)"
    what = {int: "whole numbers", float: "numbers", str: "names"}[inner[0]]
    return f"{what} between commas" if several else f"{len(inner)} {what} between commas"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
