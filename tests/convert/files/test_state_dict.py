"""State dicts out of whatever people put around them."""

from __future__ import annotations

from itertools import permutations

import mlx.core as mx
import pytest

from mlx_rcnn.convert.files.state_dict import state_dict_of
from mlx_rcnn.convert.libraries.recognise import recognise, unprefixed

WRAPPERS = ("model", "state_dict", "model_state_dict", "ema")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_state_dicts(wrapper: str) -> None:
    content = {wrapper: {"a": mx.array(1)}, "epoch": 3, "optimizer": {"lr": 0.1}}
    assert list(state_dict_of(content, "f")) == ["a"]


@pytest.mark.parametrize("outer", list(permutations(WRAPPERS, 2)))
def test_wrapped_in_any_order_and_data_parallel(outer: tuple[str, str]) -> None:
    inner = {"module.a": mx.array(1), "module.b.c": mx.array(2)}
    content = {"args": "--lr", outer[0]: {"best": 0.3, outer[1]: inner}}
    assert list(state_dict_of(content, "f")) == ["a", "b.c"]


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "model.module."])
def test_prefixes_of_wrapping_modules(prefix: str) -> None:
    assert list(state_dict_of({f"{prefix}a": mx.array(1)}, "f")) == ["a"]


def test_a_module_called_module_is_no_prefix() -> None:
    content = {"module.a": mx.array(1), "a": mx.array(2)}
    assert list(state_dict_of(content, "f")) == ["module.a", "a"]


def test_weights_before_their_average() -> None:
    content = {"ema": {"a": mx.array(1)}, "model": {"b": mx.array(1)}}
    assert list(state_dict_of(content, "f")) == ["b"]


def test_what_is_no_tensor_is_passed_over() -> None:
    content = {"a": mx.array(1), "epoch": 3, "args": {"lr": 0.1}, "note": None}
    assert list(state_dict_of(content, "f")) == ["a"]


@pytest.mark.parametrize("prefix", ["", "detector.", "net.detector.", "model.net."])
def test_a_detector_under_a_prefix(small_state, prefix: str) -> None:
    """DeepLabCut 3 keeps torchvision's detector as `model` of a module of its own."""
    whole = small_state("faster_rcnn")
    content = {
        "model": {f"{prefix}{key}": value for key, value in whole.items()},
        "metadata": {"epoch": 250, "metrics": {"test.mAP@50:95": 0.9}, "losses": {}},
        "optimizer": {"state": {0: {"step": mx.array(1)}}, "param_groups": []},
    }
    state = unprefixed(state_dict_of(content, "f"))
    assert state.keys() == whole.keys()
    assert recognise(state).model == "faster_rcnn"


def test_no_prefix_is_taken_off_what_no_library_knows() -> None:
    state = {"net.a": mx.array(1), "net.b": mx.array(1)}
    assert unprefixed(state) is state


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({}, "an empty dict"),
        ([mx.array(1)], "a list"),
        (None, "a NoneType"),
        (mx.array(1), "a array"),
        ({"model": {}}, "an empty dict"),
        ({"best": 0.1, "epoch": 3}, "no tensor is under 'best', 'epoch'"),
        ({"a": mx.array(1), 3: mx.array(1)}, "no name is '3'"),
    ],
)
def test_not_a_state_dict(content: object, what: str) -> None:
    with pytest.raises(ValueError, match=f"^f: .*{what}"):
        state_dict_of(content, "f")
