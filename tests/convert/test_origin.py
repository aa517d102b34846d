"""What a model keeps of its checkpoint: exact, checked when it is read again."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_rcnn.convert.origin import Origin, from_json, make_origin
from mlx_rcnn.convert.rename import Rule, rename, rename_back

RULES = (
    Rule(r".*\.(?:count|mean)", None),
    Rule(r"(?:old|new)\.(.*)", r"\1", "same", r"new.\1"),
)
STATE = {
    "old.a": mx.array([1.0]),
    "new.b": mx.array([2.0]),
    "x.count": mx.array(2**53 + 1, mx.int64),
    "x.mean": mx.array([[0.1], [-1e-45], [3.4e38]]),
    "y.mean": mx.array([0.1, 3.0], mx.bfloat16),
    "z.count": mx.array([True, False]),
    "w.count": mx.array(np.array(2**64 - 1, np.uint64)),
}


def test_through_json_and_back() -> None:
    renamed = rename(STATE, RULES)
    made = make_origin("torchvision", "f.pth", STATE, renamed, RULES)
    assert made.spelling == {"new.a": "old.a"}
    origin = from_json(json.loads(json.dumps(made.to_json())))
    assert origin == made
    back = origin.restore(rename_back(renamed.weights, RULES))
    assert back.keys() == STATE.keys()
    for key, value in STATE.items():
        assert back[key].dtype == value.dtype and back[key].shape == value.shape
        assert mx.array_equal(back[key], value)


def test_weights_are_not_dropped_unseen() -> None:
    state = {"x.mean": mx.zeros((4097,))}
    with pytest.raises(ValueError, match=r"'x.mean' has shape \(4097,\): expected at most 4096"):
        make_origin("torchvision", "f", state, rename(state, RULES), RULES)


def test_lost_weights_are_named() -> None:
    origin = Origin("torchvision", "f.pth", {}, {"new.a": "old.a"})
    with pytest.raises(ValueError, match="no weights for 'new.a', which f.pth had"):
        origin.restore({"new.b": mx.array(1)})


GOOD = {"library": "torchvision", "file": "f", "dropped": {}, "spelling": {}}


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        [],
        {},
        {**GOOD, "more": 1},
        {**GOOD, "library": 1},
        {**GOOD, "spelling": {"a": 1}},
        {**GOOD, "spelling": 3},
        {**GOOD, "dropped": {"eval": {"a": 1}}},
        {**GOOD, "dropped": [1]},
        {**GOOD, "dropped": {"int64": {"a": "1"}}},
        {**GOOD, "dropped": {"int64": 1}},
        {**GOOD, "dropped": {"int64": {"a": [[1], [2, 3]]}}},
    ],
)
def test_damaged_records(wrong: object) -> None:
    with pytest.raises(ValueError, match="origin is no record of a checkpoint"):
        from_json(wrong)


def test_nothing_was_kept() -> None:
    assert from_json(None) is None
