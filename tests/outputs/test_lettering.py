"""Class names in pictures: every letter is drawn, or spelled out."""

import numpy as np
import pytest

from mlx_rcnn.outputs import lettering
from mlx_rcnn.outputs.draw import draw_detections
from mlx_rcnn.outputs.lettering import font, readable

FOUND = {
    "boxes": np.array([[50, 80, 250, 150]], np.float32),
    "scores": np.array([0.9], np.float32),
    "labels": np.array([12]),
}


def drawn(name):
    names = [""] * 12 + [name]
    return np.asarray(draw_detections(np.zeros((200, 300, 3), np.uint8), FOUND, names))


@pytest.fixture
def no_system_fonts(monkeypatch):
    monkeypatch.setattr(lettering, "_system_fonts", lambda: ())
    for cached in (lettering.font, lettering.font_path):
        cached.cache_clear()
    yield
    for cached in (lettering.font, lettering.font_path):
        cached.cache_clear()


@pytest.mark.parametrize("text", ["café", "łódź", "Жук", "αβγ", "Ștefan", "Việt", "straße"])
def test_latin_greek_and_cyrillic_have_a_font_here(text, no_system_fonts):
    assert readable(text, 12) == text
    letters = font(f"{text} 0.90", 20)
    box = letters.getmask("\uffff")
    for letter in text:
        assert bytes(letters.getmask(letter)) != bytes(box)


def test_decomposed_letters_are_composed(no_system_fonts):
    assert readable("cafe\u0301", 1) == "caf\u00e9"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("猫", "12 U+732B"),
        ("cat 猫", "12 cat U+732B"),
        ("ﬁn 猫", "12 fin U+732B"),
        ("👍", "12 U+1F44D"),
        ("a\nb", "a b"),
    ],
)
def test_letters_without_a_font_are_spelled(text, shown, no_system_fonts):
    assert readable(text, 12) == shown


def test_pictures_of_different_names_differ(no_system_fonts):
    pairs = [("é", "è"), ("ł", "ń"), ("Ж", "Ш"), ("α", "β"), ("猫", "狗"), ("👍", "👎")]
    for a, b in pairs:
        assert (drawn(a) != drawn(b)).any(), (a, b)


def test_fonts_of_the_system_are_asked(monkeypatch, tmp_path, no_system_fonts):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    other = tmp_path / "other.ttf"
    other.write_bytes(lettering.OWN_FONT.read_bytes())
    monkeypatch.setattr(lettering, "OWN_FONT", tmp_path / "none.ttf")
    fonts = str(tmp_path / "broken.ttf"), str(other)
    monkeypatch.setattr(lettering, "_system_fonts", lambda: fonts)
    assert readable("Ж", 1) == "Ж" and lettering.font_path("Ж") == str(other)


def test_an_empty_name_is_a_number():
    assert (drawn("") == drawn("class 12")).all()
