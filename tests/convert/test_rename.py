"""The rename engine: every key accounted for, every layout by its definition."""

from __future__ import annotations

import itertools

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.convert.layouts import LAYOUTS
from mlx_rcnn.convert.libraries.recognise import LIBRARIES
from mlx_rcnn.convert.rename import Rule, _inverse, rename, rename_back
from mlx_rcnn.messages import listing

RULES = (
    Rule(r".*\.count", None),
    Rule(r"body\.(.*)", r"net.\1", "conv"),
    Rule(r"up\.(.*)", r"up.\1", "deconv"),
    Rule(r"fc\.weight", "fc.weight", "flat"),
    Rule(r"fc\.(.*)", r"fc.\1"),
)


def numbers(*shape: int) -> mx.array:
    return mx.arange(int(np.prod(shape))).reshape(shape).astype(mx.float32)


def test_conv_moves_input_channels_last() -> None:
    source = np.array(numbers(2, 3, 4, 5))
    out = np.array(rename({"body.a.weight": mx.array(source)}, RULES).weights["net.a.weight"])
    assert out.shape == (2, 4, 5, 3)
    for o, i, y, x in np.ndindex(*source.shape):
        assert out[o, y, x, i] == source[o, i, y, x]


def test_deconv_swaps_inputs_and_outputs() -> None:
    source = np.array(numbers(2, 3, 4, 5))  # (I, O, kh, kw)
    out = np.array(rename({"up.weight": mx.array(source)}, RULES).weights["up.weight"])
    assert out.shape == (3, 4, 5, 2)
    for i, o, y, x in np.ndindex(*source.shape):
        assert out[o, y, x, i] == source[i, o, y, x]


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_flat_reads_pooled_features_channels_last(units: int, c: int, h: int, w: int) -> None:
    random = np.random.default_rng(units)
    weight = random.integers(-9, 9, (units, c * h * w)).astype(np.float32)
    pooled = random.integers(-9, 9, (2, c, h, w)).astype(np.float32)
    ours = rename({"fc.weight": mx.array(weight)}, RULES, (h, w)).weights["fc.weight"]
    expected = pooled.reshape(2, -1) @ weight.T
    got = pooled.transpose(0, 2, 3, 1).reshape(2, -1) @ np.array(ours).T
    np.testing.assert_array_equal(got, expected)  # small integers: exact


def test_flat_by_hand() -> None:
    # One unit, C = 2, 1 x 2 bins: columns (c, x) = 00 01 10 11 become (x, c) = 00 10 01 11.
    out = rename({"fc.weight": mx.array([[0.0, 1.0, 10.0, 11.0]])}, RULES, (1, 2))
    assert out.weights["fc.weight"].tolist() == [[0, 10, 1, 11]]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5, 6)])
def test_other_than_four_axes_stay(shape: tuple[int, ...]) -> None:
    out = rename({"body.bias": numbers(*shape), "up.bias": numbers(*shape)}, RULES)
    for value in out.weights.values():
        assert mx.array_equal(value, numbers(*shape))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.int32])
def test_dtypes_stay(dtype: mx.Dtype) -> None:
    out = rename({"body.weight": numbers(1, 2, 3, 4).astype(dtype)}, RULES)
    assert out.weights["net.weight"].dtype == dtype


def test_first_rule_wins_and_dropped_keys_are_listed() -> None:
    source = {"body.count": mx.array(1), "fc.bias": numbers(3), "body.bias": numbers(2)}
    out = rename(source, RULES)
    assert set(out.weights) == {"fc.bias", "net.bias"}
    assert out.dropped == ["body.count"]


@pytest.mark.parametrize("key", ["xbody.weight", "body", "fc.weight\nx"])
def test_patterns_match_whole_keys(key: str) -> None:
    with pytest.raises(ValueError, match="no rule for"):
        rename({key: mx.array(0)}, RULES)


def test_all_unknown_keys_are_listed() -> None:
    source = {"body.weight": numbers(1, 1, 1, 1), "neck.a": mx.array(0), "neck.b": mx.array(0)}
    with pytest.raises(ValueError, match="no rule for 'neck.a', 'neck.b'"):
        rename(source, RULES)


def test_two_keys_for_one_target() -> None:
    rules = (Rule(r"(?:old|new)\.(.*)", r"\1"),)
    with pytest.raises(ValueError, match="'new.a' and 'old.a' both stand for 'a'"):
        rename({"old.a": mx.array(0), "new.a": mx.array(0)}, rules)


@pytest.mark.parametrize("shape", [(3,), (2, 7), (2, 2, 4)])
def test_flat_misshaped(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'fc.weight' has shape .*\(units, C \* 2 \* 2\)"):
        rename({"fc.weight": numbers(*shape)}, RULES, (2, 2))


def test_nothing_gives_nothing() -> None:
    assert rename({}, RULES) == ({}, [], {})
    assert rename_back({}, RULES) == {}


def test_back_is_the_inverse() -> None:
    source = {
        "body.a.weight": numbers(2, 3, 4, 5),
        "body.bias": numbers(2),
        "up.weight": numbers(2, 3, 4, 5),
        "fc.weight": numbers(2, 12),
        "fc.bias": numbers(2),
    }
    out = rename(source, RULES, (2, 3))
    back = rename_back(out.weights, RULES, (2, 3))
    assert back.keys() == source.keys()
    assert all(mx.array_equal(back[key], source[key]) for key in source)
    assert out.origin == {"net.a.weight": "body.a.weight", "net.bias": "body.bias"} | {
        key: key for key in ("up.weight", "fc.weight", "fc.bias")
    }


SPELLINGS = (
    Rule(r"(?:old|new)_(\w+)\.(a|b)", r"\2.\1", "same", r"new_\1.\2"),
    Rule(r"first1\.(.*)", r"0.\1"),
    Rule(r"second(\d)\.([wb])", r"\1.\2.\1"),
)


@pytest.mark.parametrize(
    ("key", "name", "written"),
    [
        ("new_x.a", "a.x", "new_x.a"),
        ("old_x.a", "a.x", "new_x.a"),  # the spelling it exports
        ("first1.z.z", "0.z.z", "first1.z.z"),
        ("second3.w", "3.w.3", "second3.w"),
    ],
)
def test_spellings(key: str, name: str, written: str) -> None:
    out = rename({key: numbers(2)}, SPELLINGS)
    assert out.origin == {name: key}
    assert list(rename_back(out.weights, SPELLINGS)) == [written]


@pytest.mark.parametrize("name", ["a.x y", "c.x", "3.w.4", "x0.z", "0\n.z"])
def test_names_no_rule_leads_to(name: str) -> None:
    with pytest.raises(ValueError, match="no rule leads to"):
        rename_back({name: numbers(2), "a.x": numbers(2)}, SPELLINGS)


def test_a_key_that_an_earlier_rule_takes_does_not_lead_back() -> None:
    rules = (Rule(r"a\.x", "other"), Rule(r"a\.(.*)", r"b.\1"))
    assert list(rename_back({"b.y": numbers(1)}, rules)) == ["a.y"]
    with pytest.raises(ValueError, match="no rule leads to 'b.x'"):
        rename_back({"b.x": numbers(1)}, rules)


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        (r"a(b(c))", "not nested"),
        (r"a(b)?c", "not repeated"),
        (r"a.*b", "needs export"),
        (r"a(?:b|c)", "needs export"),
        (r"a\d", "needs export"),
    ],
)
def test_rules_that_cannot_be_read_backwards(pattern: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        rename_back({"x": numbers(1)}, (Rule(pattern, "x"),))


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_table_reads_backwards(library: str) -> None:
    tables = [v for k, v in vars(LIBRARIES[library]).items() if k.endswith("RULES")]
    assert tables
    for rule in itertools.chain(*tables):
        if rule.target is not None:
            _inverse(rule)
            assert rule.layout in LAYOUTS


def test_listing_is_short() -> None:
    assert listing(["a", "b"]) == "'a', 'b'"
    assert listing([str(i) for i in range(10)]).endswith("'7' and 2 more")
    assert listing([str(i) for i in range(10)], 1) == "'0' and 9 more"
