"""Finds the state dict in what a checkpoint file held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import mlx.core as mx

from mlx_rcnn.messages import listing

from .safe_values import Opaque, describe

_WRAPPERS = (
    "model",
    "state_dict",
    "model_state_dict",
    "ema",
    "model_ema",
    "ema_state_dict",
    "module",
)
"""The names people save weights under. Where a file holds several, the first of these is read."""

_PREFIXES = ("module.", "model.")
"""Of DataParallel and of wrapping modules."""

_INFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpoints put before the keys of any module."""

_COUNTS = ("n_averaged",)
"""Of AveragedModel, beside the keys of its ``module.``."""

_DEEPEST = 8
Knows = Callable[[Mapping[str, mx.array]], bool]


def state_dict_of(
    content: object, name: str, pick: str | None = None, knows: Knows | None = None
) -> dict[str, mx.array]:
    """The tensors of a checkpoint, out of the wrappers people put around them."""
    outer = content
    # A state dict, or a dict with one under ``model``, ``state_dict``, ``model_state_dict``,
    # ``ema`` and their like, in any order and depth; or under any other key, where it is the only
    # one. Of several ``pick`` names one, else ``knows`` tells which holds a network.
    found = _picked(content, name, pick) if pick is not None else _only(content, name, knows)
    if found is None:
        what = describe_content(_unwrapped(outer))
        raise ValueError(f"{name}: holds {what}, expected a state dict (tensors by name)")
    # what is no tensor (an optimizer's state, the epoch) is passed over
    state = {key: value for key, value in found.items() if isinstance(value, mx.array)}
    if wrong := [str(key) for key in state if not isinstance(key, str)]:
        raise ValueError(f"{name}: expected a state dict, but no name is {listing(wrong)}")
    if not state:
        raise ValueError(f"{name}: expected a state dict, but {_nothing_in(outer)}")
    return _plain_keys(state)  # all keys may start with ``module.`` or ``model.``, several times


def _plain_keys(state: dict[str, mx.array]) -> dict[str, mx.array]:
    """Without what wrapping modules put before the keys."""
    plain = {key: value for key, value in state.items() if key not in _COUNTS} or state
    for infix in _INFIXES:
        shorter = {key.replace(infix, ""): value for key, value in plain.items()}
        plain = shorter if len(shorter) == len(plain) else plain
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in plain)), None):
        plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain


def describe_content(content: object) -> str:
    """What a value is, where a state dict was expected."""
    return "an empty dict" if isinstance(content, dict) else f"a {type(content).__name__}"


def _unwrapped(content: object) -> object:
    """What is under the usual names."""
    while isinstance(content, dict):
        inner = next((content[w] for w in _WRAPPERS if isinstance(content.get(w), dict)), None)
        if inner is None:
            break
        content = inner
    return content


def _only(content: object, name: str, knows: Knows | None) -> dict[str, object] | None:
    """The state dict under the usual names, or else the only one there is."""
    usual = _unwrapped(content)
    if isinstance(usual, dict) and _has_kernels(usual):
        return usual
    networks = dict(_networks(content))
    if len(networks) > 1 and knows is not None:
        known = {path: one for path, one in networks.items() if knows(_plain_keys(_arrays(one)))}
        networks = known or networks
    if len(networks) > 1:
        raise ValueError(
            f"{name}: holds several networks, under {listing(list(networks))}: say which with "
            f"state={next(iter(networks))!r} (--state {next(iter(networks))})"
        )
    if networks:
        return next(iter(networks.values()))
    return usual if isinstance(usual, dict) and usual else None


def _picked(content: object, name: str, pick: str) -> dict[str, object]:
    """The state dict under a key, or of a part of the network."""
    for path, found in _dicts(content):
        if path and pick in (path, path.rpartition(".")[2]):
            return found
    start = pick.rstrip(".") + "."
    for _, found in _dicts(content):
        keys = [key for key in found if isinstance(key, str) and key.startswith(start)]
        if keys:
            return {key.removeprefix(start): found[key] for key in keys}
    there = [path for path, _ in _networks(content) if path]
    raise ValueError(f"{name}: state={pick!r} is not in it; there are {listing(there) or 'none'}")


def _dicts(
    content: object, path: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, object]]]:
    """All dicts in a checkpoint, outermost first, by the dotted path of their keys."""
    if not isinstance(content, dict) or depth > _DEEPEST:
        return
    yield path, content
    for key, value in content.items():
        yield from _dicts(value, f"{path}.{key}" if path else str(key), depth + 1)


def _networks(content: object) -> Iterator[tuple[str, dict[str, object]]]:
    return ((path, found) for path, found in _dicts(content) if _has_kernels(found))


def _arrays(found: dict[str, object]) -> dict[str, mx.array]:
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, mx.array)}


def _has_kernels(found: dict[str, object]) -> bool:
    return any(value.ndim == 4 for value in _arrays(found).values())


def _nothing_in(content: object) -> str:
    """What a checkpoint without tensors holds, truly."""
    names = content if isinstance(content, dict) else ()
    pickled = [
        f"{key!r} is a pickled {describe(value)}"
        for _, found in _dicts(content)
        for key, value in found.items()
        if isinstance(value, Opaque) and key not in ("args", "cfg", "config", "hparams")
    ]
    if pickled:
        return (
            f"{pickled[0]}, of which nothing is read: load it where its code is, and save its "
            "state_dict()"
        )
    return f"no tensor is under {listing([str(key) for key in names])}"
