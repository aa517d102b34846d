"""Files of proposals: what is written is read; damaged and hostile files are refused."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlx_rcnn.data import Proposed, read_note, read_proposals, write_proposals

BOXES = np.array([[1, 2, 30, 40], [0.5, 0, 60, 39.5]], np.float32)
SCORES = np.array([0.25, 0.75], np.float32)

coordinates = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@st.composite
def proposed(draw):
    count = draw(st.integers(0, 5))
    corners = draw(hnp.arrays(np.float32, (count, 2), elements=coordinates))
    sides = draw(hnp.arrays(np.float32, (count, 2), elements=st.floats(1, 1e4, width=32)))
    scores = hnp.arrays(np.float32, (count,), elements=coordinates)
    return Proposed(np.concatenate([corners, corners + sides], 1), draw(st.none() | scores))


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, proposed(), max_size=4), st.dictionaries(st.text(), st.integers()))
def test_there_and_back(tmp_path_factory, proposals, note):
    path = tmp_path_factory.mktemp("proposals") / "p.npz"
    note = json.loads(json.dumps(note))
    write_proposals(path, proposals, note)
    back = read_proposals(path)
    assert list(back) == list(proposals) and read_note(path) == note
    for name, (boxes, scores) in proposals.items():
        assert back[name].boxes.dtype == np.float32
        np.testing.assert_array_equal(back[name].boxes, boxes)
        if scores is None:
            assert back[name].scores is None
        else:
            assert back[name].scores.dtype == np.float32
            np.testing.assert_array_equal(back[name].scores, scores)


@pytest.mark.parametrize("name", ["file", "about", "a.npy", "../a.jpg", "/a", "a/b.jpg", "b\\c"])
def test_odd_names(tmp_path, name):
    write_proposals(tmp_path / "p.npz", {name: BOXES, "boxes": Proposed(BOXES, SCORES)})
    assert list(read_proposals(tmp_path / "p.npz")) == [name, "boxes"]


def test_numpy_reads_the_file(tmp_path):
    write_proposals(tmp_path / "p.npz", {"a.jpg": Proposed(BOXES, SCORES)}, {"source": "mine"})
    with np.load(tmp_path / "p.npz") as arrays:
        np.testing.assert_array_equal(arrays["boxes/a.jpg"], BOXES)
        np.testing.assert_array_equal(arrays["scores/a.jpg"], SCORES)
        assert json.loads(str(arrays["about"])) == {"format": 1, "note": {"source": "mine"}}


def test_lists_and_other_numbers_are_written_as_float32(tmp_path):
    given = {"a": [[1, 2, 3, 4]], "b": Proposed(BOXES.astype(np.float64), [1, 2]), "c": []}
    write_proposals(tmp_path / "p.npz", given)
    back = read_proposals(tmp_path / "p.npz")
    assert back["a"].boxes.tolist() == [[1, 2, 3, 4]] and back["b"].scores.tolist() == [1, 2]
    assert back["c"].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": BOXES, "b": BOXES[:, :3]}, r"proposals of b: got shape \(2, 3\)"),
        ({"b": [[0, 0, np.inf, 1]]}, "proposals of b, row 0: .* not finite"),
        ({"b": [[10, 10, 5, 5]]}, "proposals of b, row 0: .* these look like x, y, width, height"),
        ({"b": Proposed(BOXES, SCORES[:1])}, r"b: got scores of shape \(1,\) .* expected \(2,\)"),
        ({"b": Proposed(BOXES, ["x", "y"])}, "proposals of b: got scores"),
        ({"b": Proposed(BOXES, [1, np.nan])}, "proposals of b, row 1: the score is nan"),
        ({"": BOXES}, "image name ''"),
        ({"a\0b": BOXES}, "image name 'a"),
        ({"\udc80": BOXES}, "image name"),
        ({7: BOXES}, "image name 7"),
    ],
)
def test_what_is_wrong_is_not_written(tmp_path, given, message):
    path = tmp_path / "p.npz"
    write_proposals(path, {"old": BOXES})
    with pytest.raises(ValueError, match=message):
        write_proposals(path, given)
    assert list(read_proposals(path)) == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["p.npz"]


def test_paths_and_notes(tmp_path):
    with pytest.raises(ValueError, match="expected a name that ends in .npz"):
        write_proposals(tmp_path / "p.json", {})
    for note in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="note: expected what JSON can say"):
            write_proposals(tmp_path / "p.npz", {}, note)
    with pytest.raises(FileNotFoundError):
        read_proposals(tmp_path / "p.npz")
    with pytest.raises(OSError):
        write_proposals(tmp_path / "none" / "p.npz", {})
    with pytest.raises(OSError):
        read_proposals(tmp_path)


ABOUT = np.array(json.dumps({"format": 1, "note": {}}))


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no 'about'"),
        ({"boxes/a": BOXES}, "holds no 'about'"),
        ({"about": ABOUT, "weights": BOXES}, "holds an array 'weights'"),
        ({"about": ABOUT, "boxes/": BOXES}, "holds an array 'boxes/'"),
        ({"about": ABOUT, "scores/a": SCORES}, "a has scores, expected boxes too"),
        ({"about": ABOUT, "boxes/a": BOXES[:, :3]}, r"proposals of a: got shape \(2, 3\)"),
        ({"about": ABOUT, "boxes/a": BOXES[0]}, r"proposals of a: got shape \(4,\)"),
        ({"about": ABOUT, "boxes/a": BOXES > 1}, "boxes of a: got an array of bool"),
        ({"about": ABOUT, "boxes/a": BOXES * np.nan}, "a, row 0: .* is not finite"),
        ({"about": ABOUT, "boxes/a": BOXES[:, ::-1]}, "these look like x, y, width, height"),
        ({"about": ABOUT, "boxes/a": np.array([["1"] * 4])}, "got an array of <U1"),
        ({"about": ABOUT, "boxes/a": BOXES, "scores/a": SCORES[:1]}, r"expected \(2,\) numbers"),
        ({"about": ABOUT, "boxes/a": BOXES, "scores/a": SCORES * np.inf}, "the score is inf"),
        ({"about": ABOUT, "boxes/a": np.array([[Boom()] * 4])}, "boxes of a: got an array of obj"),
        ({"about": np.array(Boom())}, "about: got an array of object"),
        ({"about": np.array("{")}, "about: expected JSON"),
        ({"about": np.array("[" * 100_000)}, "about: expected JSON"),
        ({"about": np.array(["{}"])}, "about: expected JSON"),
        ({"about": np.array('{"format": 1}')}, "about: expected JSON with a format and a note"),
        ({"about": np.array('{"format": 2, "note": {}}')}, "format 2, expected 1.*later"),
        ({"about": BOXES}, "about: expected JSON"),
    ],
)
def test_other_arrays(tmp_path, arrays, message):
    path = tmp_path / "p.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        read_proposals(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def header(shape, dtype="<f4"):
    """The bytes of an array's file that says this and ends there."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "member",
    [
        header((10**12, 4)),  # NumPy would ask for 16 terabytes
        header((1 << 62, 4)),
        header((-1, 4)) + bytes(16),
        header((2, 4)) + bytes(31),
        header((2, 4), "|O") + pickle.dumps(Boom()),
        header((2, 4), "nonsense"),
        header("__import__('os')"),
        b"\x93NUMPY\x09\x00",
        b"",
        b"hello",
    ],
)
def test_headers_that_lie(tmp_path, member):
    path = tmp_path / "p.npz"
    np.savez(path, about=ABOUT)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("boxes/a.npy", member)
    with pytest.raises(ValueError) as caught:
        read_proposals(path)
    assert str(path) in str(caught.value)


def test_a_bomb_of_zeros_is_not_unpacked(tmp_path):
    path = tmp_path / "p.npz"
    np.savez(path, about=ABOUT)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("boxes/a.npy", header((2_000_000, 4)) + bytes(32_000_000))
    with pytest.raises(ValueError, match="at most 1000000 rows"):
        read_proposals(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_twice(tmp_path):
    path = tmp_path / "p.npz"
    write_proposals(path, {"a": BOXES})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("boxes/a.npy", header((0, 4)))
    with pytest.raises(ValueError, match="an array comes up twice"):
        read_proposals(path)


def test_damage_anywhere_is_one_error(tmp_path):
    """Cut short, or a byte changed: the file is refused, or says what it said."""
    whole = tmp_path / "whole.npz"
    write_proposals(whole, {"a.jpg": Proposed(BOXES, SCORES)}, {"source": "mine"})
    content, path = whole.read_bytes(), tmp_path / "p.npz"
    rng = np.random.default_rng(0)
    cuts = [content[:at] for at in range(0, len(content), 41)]
    for at in rng.integers(len(content), size=300):
        cuts.append(
            content[:at] + bytes([content[at] ^ int(rng.integers(1, 256))]) + content[at + 1 :]
        )
    refused = 0
    for damaged in cuts:
        path.write_bytes(damaged)
        try:
            read_proposals(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 150
    path.write_text("hello")
    with pytest.raises(ValueError, match="is damaged, or no .npz of proposals"):
        read_note(path)
