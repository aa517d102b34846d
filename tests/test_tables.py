"""Columns of a terminal."""

import pytest

from mlx_rcnn.tables import display_width, pad


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("cat", 3),
        ("café", 4),
        ("cafe\u0301", 4),
        ("猫", 2),
        ("한국", 4),
        ("Жук", 3),
        ("🐈", 2),
        ("ｱ", 1),
        ("Ａ", 2),
        ("", 0),
    ],
)
def test_width(text, width):
    assert display_width(text) == width
    assert display_width(pad(text, 8)) == display_width(pad(text, 8, right=True)) == 8


def test_a_wider_text_stays():
    assert pad("猫猫", 3) == "猫猫"
