"""Lists of class names as users write them."""

import json

import pytest

from mlx_rcnn.config.categories import read_class_names

NAMES = ("café", "łódź", "猫")


@pytest.mark.parametrize(
    "data",
    [
        "café\nłódź\n猫\n".encode(),
        "café\r\nłódź\r\n\r\n 猫 ".encode("utf-8-sig"),
        "café\nłódź\n猫".encode("utf-16"),
        json.dumps(NAMES).encode(),
        json.dumps(NAMES, ensure_ascii=False).encode("utf-8-sig"),
        json.dumps({"2": "猫", "0": "café", "1": "łódź"}).encode(),
    ],
    ids=["lines", "bom-crlf", "utf-16", "list", "list-bom", "dictionary"],
)
def test_one_list_in_many_files(tmp_path, data):
    path = tmp_path / "names"
    path.write_bytes(data)
    assert read_class_names(path) == read_class_names(str(path)) == NAMES


def test_names_on_the_command_line():
    assert read_class_names("café, łódź,猫") == NAMES
    assert read_class_names("cat,") == ("cat",)


def test_ids_that_do_not_start_at_0_are_labels(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"1": "cat", "10": "dog", "3": "cow"}))
    names = read_class_names(path)
    assert (names[0], names[1], names[3], names[10]) == ("__background__", "cat", "cow", "dog")
    assert len(names) == 11 and names[2] == "N/A"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog\ncat\n", "'cat' comes up twice, as names 1 and 3"),
        ('["cat", " "]', "name 2 is empty"),
        ('["cat", 3]', "expected a list of names, got 3"),
        ('["cat"', "starts as JSON does, but is not: Expecting"),
        ('{"cat": 1}', "the key 'cat': expected ids to names"),
        ('{"1": "cat", "1": "dog"}', "the id 1 twice"),
        ('{"1": "cat", "2": "cat"}', "comes up twice"),
        ('{"1": "cat", "2": ""}', "name 3 is empty"),
        ('{"99999999999": "cat"}', "the id 99999999999"),
        ("[]", "0 names"),
        ("\n \n", "0 names"),
        (b"caf\xe9", "is not UTF-8"),
    ],
)
def test_lists_that_cannot_be_used_are_named(tmp_path, text, message):
    path = tmp_path / "names.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as caught:
        read_class_names(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_neither_a_file_nor_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file: names.txt"):
        read_class_names("names.txt")
    with pytest.raises(ValueError, match="name 2 is empty"):
        read_class_names("cat,,dog")
    with pytest.raises(IsADirectoryError):
        read_class_names(tmp_path)
