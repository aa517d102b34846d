"""The YAML of a data.yaml: what tools write is read, all else is an error that says where."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_rcnn.data.formats.yaml import read_yaml

COCO8 = """\
# Ultralytics
path: ../datasets/coco8 # dataset root
train: images/train
val:
- images/val
- "more # not a comment"
test: # optional

names:
  0: person
  1: 'it''s: x'
  2: no
  "3": "caf\\u00e9\\x21\\n"
download: |
  import os  # [ not { yaml

  x: 1
kpt_shape: [17,
  3] # x
flip: {0: a, 1: , 'b c': [d, [e]]}
"""


def test_what_tools_write():
    assert read_yaml(COCO8, "data.yaml") == {
        "path": "../datasets/coco8",
        "train": "images/train",
        "val": ["images/val", "more # not a comment"],
        "test": None,
        "names": {"0": "person", "1": "it's: x", "2": "no", "3": "café!\n"},
        "download": "import os  # [ not { yaml\n\nx: 1",
        "kpt_shape": ["17", "3"],
        "flip": {"0": "a", "1": None, "b c": ["d", ["e"]]},
    }
    assert read_yaml("\ufeff---\n# nothing else\n", "x") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: &x 1", "line 2: '&x 1': an anchor"),
        ("a: *x", "an alias"),
        ("<<: x", "merged keys"),
        ("a: !!python/object x", "a tag"),
        ("a: [1, 2\nb: 1", "a bracket is not closed|expected"),
        ("a: 'x", "a quote is not closed"),
        ("a: ['x", "a quote is not closed"),
        ('a: "\\xzz"', "an escape"),
        ("a: 1\n  b", "over several lines"),
        ("just text", "expected 'key: value'"),
        ("a: 1\na: 2", "'a' comes up twice"),
        ("a: {x: 1, x: 2}", "a key comes up twice"),
        ("- a: 1", "a mapping in a list"),
        ("a: 1\n---\nb: 2", "a second document"),
        ("\ta: 1", "by a tab"),
        (" a: 1\nb: 2", "line 2: is indented otherwise"),
        ("a: 1\n  b: 2", "over several lines"),
        ("a: " + "[" * 30, "more than 20 levels"),
        ("- 1", "got a list"),
        ("a: [1] x", "follows a bracket"),
    ],
)
def test_the_rest_is_refused_with_its_line(text, problem):
    with pytest.raises(ValueError, match=problem) as error:
        read_yaml(text, "data.yaml")
    assert str(error.value).startswith("data.yaml")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), max_size=5))
def test_quoted_names_come_back(names):
    quoted = [json.dumps(name, ensure_ascii=False) for name in names]
    flow = read_yaml(f"names: [{', '.join(quoted)}]", "x")
    block = read_yaml("names:\n" + "".join(f"  {i}: {n}\n" for i, n in enumerate(quoted)), "x")
    # Line ends of Unicode, which YAML 1.1 breaks lines at, are no part of a name here.
    if all(len(name.splitlines()) == 1 for name in names):
        assert flow == {"names": names}
        assert (block["names"] or {}) == {str(i): name for i, name in enumerate(names)}


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab:-[]{},'\"#|> \n\t&*!\\"), max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        assert isinstance(read_yaml(text, "x"), dict)
    except ValueError as error:
        assert str(error).startswith("x")
