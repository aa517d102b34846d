"""Configs of Python text: data is read, nothing is run, what is no data is left out and said."""

from __future__ import annotations

import pytest

from mlx_rcnn.convert.files.python_config import read_python_config

TEXT = """
'''A docstring.'''
_base_ = ['./a.py']
classes = ('cat', 'dog')
half = 1 / 2
strides = [4, 8] + [16]
norm = dict(type='BN', requires_grad=True)
model = dict(
    norm=dict(norm, requires_grad=False),
    backbone={'depth': 50, 'out': [-1, not True], **norm},
    head=dict(num_classes=len(classes), sizes=[s * 2 for s in strides], share=half - 0.25),
    names=[*classes, 'bird'],
    first=classes[0])
x: int = 3
"""


def test_data_is_read_and_the_rest_is_left_out() -> None:
    values, skipped = read_python_config(TEXT)
    assert values["classes"] == ("cat", "dog") and values["strides"] == [4, 8, 16]
    assert values["x"] == 3
    assert values["model"] == {
        "norm": {"type": "BN", "requires_grad": False},
        "backbone": {"depth": 50, "out": [-1, False], "type": "BN", "requires_grad": True},
        "head": {"share": 0.25},
        "names": ["cat", "dog", "bird"],
        "first": "cat",
    }
    assert skipped == (11,)


@pytest.mark.parametrize(
    "line",
    [
        "x = __import__('os').system('touch ran')",
        "x = open('ran', 'w')",
        "import os",
        "x = (lambda: 1)()",
        "for x in range(3): pass",
        "if True: x = 1",
        "x = f'{1}'",
        "x += 1",
        "x = 'a' * 10 ** 9",
        "x = [0] * 10 ** 9",
        "x = 1 / 0",
        "x = 9 ** 9 ** 9",
        "x = {}['a']",
        "x = nothing",
        "del x",
    ],
)
def test_what_is_no_data_is_not_run(tmp_path, monkeypatch, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    values, skipped = read_python_config(f"x = 5\ny = 2\n{line}\nz = dict(y=y)")
    assert skipped == (3,) and values["z"] == {"y": 2}
    assert values.get("x", 5) == 5 and not list(tmp_path.iterdir())
    if line.startswith(("x", "for", "if", "del")):
        assert "x" not in values  # what it was given there is not known


def test_a_change_within_a_value_makes_it_unknown() -> None:
    values, skipped = read_python_config("model = dict(a=1)\nmodel['a'] = 2\nmodel.b = 3\nc = 1")
    assert values == {"c": 1} and skipped == (2, 3)


@pytest.mark.parametrize("text", ["x = (", "x = " + "(" * 5000, "x = 1\0", "a" * 3_000_000])
def test_what_is_no_python(text: str) -> None:
    with pytest.raises(ValueError, match="no Python|characters"):
        read_python_config(text)


def test_depth_has_a_limit() -> None:
    values, skipped = read_python_config("x = " + "[" * 80 + "]" * 80 + "\ny = 1")
    assert values == {"y": 1} and skipped == (1,)
