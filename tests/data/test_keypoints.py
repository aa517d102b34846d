"""Keypoints of COCO files: what is read, what is wrong, and what a mirror does to their names."""

import json
import math

import numpy as np
import pytest

from annotated import coco_content, make_coco, make_voc
from mlx_rcnn.config.categories import COCO_KEYPOINTS
from mlx_rcnn.data import DatasetError, ShapesDataset, open_dataset, report, write_coco
from mlx_rcnn.data.keypoints import mirror_partners, read_keypoints

NAMES = ["nose", "left_eye", "right_eye"]
POINTS = [30, 25, 2, 25.5, 22, 1, 0, 0, 0]


def content(*keypoints, **changed):
    """A cat in a.jpg for each list of keypoints, 1 pixel apart, and a dog in b.jpg without any."""
    made = coco_content()
    made["categories"][1] |= {"keypoints": NAMES, "skeleton": [[1, 2], [3, 1]], **changed}
    body = made["annotations"].pop()
    for i, values in enumerate(keypoints):
        box = {"id": 20 + i, "bbox": [10 + i, 20, 40, 40], "keypoints": values}
        made["annotations"].append({**body, **box})
    return made


def test_what_samples_carry(tmp_path):
    path = make_coco(tmp_path, content(POINTS, [7, 7, 0] * 3))
    data = open_dataset(path, keypoints=True)
    assert data.keypoint_names == tuple(NAMES) and data.defects == ()
    assert data.keypoint_skeleton == ((0, 1), (2, 0))  # COCO counts from 1
    found = data[0].target["keypoints"]
    assert found.dtype == np.float32 and found.shape == (2, 3, 3)
    # Where the visibility is 0, so are x and y.
    assert found.tolist() == [[[30, 25, 2], [25.5, 22, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
    assert len(data[0].target["boxes"]) == 2  # the one without any is there to be detected
    dog = data[1].target  # of a category that has none
    assert dog["labels"].tolist() == [2] and dog["keypoints"].tolist() == [[[0, 0, 0]] * 3]
    renamed = data.with_classes(("__background__", "dog", "cat"))
    assert renamed.keypoint_names == tuple(NAMES)
    np.testing.assert_array_equal(renamed[0].target["keypoints"], found)


def test_only_where_they_are_asked_for(tmp_path):
    path = make_coco(tmp_path, content(POINTS))
    for data in (open_dataset(path), open_dataset(make_coco(tmp_path / "b"), keypoints=None)):
        assert data.keypoint_names is None and data.keypoint_skeleton is None
        assert "keypoints" not in data[0].target and "keypoints" not in data.ground_truth(0)[0]
    assert open_dataset(path, keypoints=None).keypoint_names == tuple(NAMES)
    both = open_dataset(path, masks=True, keypoints=True)[0].target
    assert both["masks"].any() and both["keypoints"].any()


def test_ground_truth_is_the_file(tmp_path):
    made = content(POINTS, [7, 7, 0] * 3, [1, 2, 3])
    made["annotations"][1]["num_keypoints"] = 5  # an evaluator is told what the file says
    data = open_dataset(make_coco(tmp_path, made), keypoints=True)
    first, second, third = data.ground_truth(0)
    assert first["keypoints"].tolist() == POINTS and first["num_keypoints"] == 5
    assert second["keypoints"].tolist() == [0] * 9 and second["num_keypoints"] == 0
    assert third["keypoints"].tolist() == [0] * 9 and third["num_keypoints"] == 0


WRONG = {
    "expected 9 numbers, got 8": POINTS[:8],
    "expected 9 numbers, got 10": [*POINTS, 1],
    "expected 9 numbers, got str": "none",
    "expected 9 numbers, got 3": [[1, 2, 2]] * 3,
    "visibility 3, expected 0, 1 or 2": [1, 2, 3, *POINTS[3:]],
    "visibility 0.5, expected 0, 1 or 2": [1, 2, 0.5, *POINTS[3:]],
    "visibility -1, expected 0, 1 or 2": [1, 2, -1, *POINTS[3:]],
    "keypoint 1 at nan": [math.nan, *POINTS[1:]],
}


def test_what_is_wrong_is_named_and_the_box_stays(tmp_path):
    odd = {**WRONG, "keypoint 1 at null": [None, *POINTS[1:]]}
    path = make_coco(tmp_path, content(*odd.values()))
    data = open_dataset(path, keypoints=True)
    assert len(data[0].target["boxes"]) == len(odd)
    assert not data[0].target["keypoints"][:, 0].any()  # the others of a whole list stay
    for i, (problem, defect) in enumerate(zip(odd, data.defects, strict=True)):
        assert f"a.jpg, annotation {20 + i}: keypoints: " in str(defect)
        assert problem in str(defect) and defect.rule == "keypoints dropped"
    with pytest.raises(DatasetError, match=f"{len(odd)} defects"):
        open_dataset(path, keypoints=True, strict=True)
    assert open_dataset(path).defects == ()  # of no concern to who wants boxes
    assert f"{len(odd)} keypoints dropped" in str(report(data))


def test_read_keypoints():
    for problem, values in WRONG.items():
        points, found = read_keypoints(values, 3)
        assert problem in found and points.shape == (3, 3) and not points[0].any()
    assert read_keypoints(None, 2)[1] is None and read_keypoints([], 2)[1] is None
    points, problem = read_keypoints([None, math.nan, 0, 5, 6, 2], 2)
    assert problem is None and points.tolist() == [[0, 0, 0], [5, 6, 2]]
    assert read_keypoints([[1, 2], [1]], 2)[1] == "keypoints: expected 6 numbers, got 2"


def test_edges_that_name_no_keypoint(tmp_path):
    edges = [[1, 2], [0, 1], [1, 4], [1], "ab", [1.5, 2]]
    data = open_dataset(make_coco(tmp_path, content(POINTS, skeleton=edges)), keypoints=True)
    assert data.keypoint_skeleton is None  # from 0 or from 1: nobody knows
    assert [d.rule for d in data.defects] == ["edges dropped"]
    from_0 = content(POINTS, skeleton=[[0, 1], [1, 2]])
    assert open_dataset(make_coco(tmp_path / "0", from_0), keypoints=True).keypoint_skeleton == (
        (0, 1),
        (1, 2),
    )
    edges = [[1, 2], [1, 4], [1], "ab", [1.5, 2]]
    data = open_dataset(make_coco(tmp_path / "1", content(POINTS, skeleton=edges)), keypoints=True)
    assert data.keypoint_skeleton == ((0, 1),)
    assert [d.rule for d in data.defects] == ["edge dropped"] * 4
    data = open_dataset(make_coco(tmp_path, content(POINTS, skeleton=[])), keypoints=True)
    assert data.keypoint_skeleton is None and data.defects == ()


def test_categories_that_differ(tmp_path):
    made = content(POINTS)
    made["categories"][0]["keypoints"] = ["nose", "tail"]
    path = make_coco(tmp_path, made)
    message = r"differ in their keypoints: 'dog' has 2 \(nose, ...\), 'cat' has 3 \(nose, ...\)"
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(path, keypoints=True)
    assert "\n" not in str(error.value)
    # Who only wants them where they can be had, gets none.
    assert open_dataset(path, keypoints=None).keypoint_names is None
    made["categories"][0]["keypoints"] = NAMES
    assert open_dataset(make_coco(tmp_path, made), keypoints=True).keypoint_names == tuple(NAMES)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nose", "nose", "tail"], "two keypoints have the same name: nose"),
        ([1, 2, 3], "category 'cat': expected keypoints as names"),
        ("nose", "category 'cat': expected keypoints as names"),
        ([], "has no keypoints: expected their names in one of its categories"),
    ],
)
def test_names_that_cannot_work(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(make_coco(tmp_path, content(POINTS, keypoints=names)), keypoints=True)


def test_voc_has_none(tmp_path):
    make_voc(tmp_path)
    assert open_dataset(tmp_path, keypoints=None).keypoint_names is None
    with pytest.raises(ValueError, match="VOC annotations hold no keypoints"):
        open_dataset(tmp_path, keypoints=True)


def test_made_up_keypoints_come_back_through_files(tmp_path):
    made = ShapesDataset(4, (48, 64), keypoints=True)
    path = write_coco(made, tmp_path)
    data = open_dataset(path, masks=True, keypoints=True)
    assert data.defects == () and data.keypoint_names == made.keypoint_names
    assert data.keypoint_skeleton == made.keypoint_skeleton
    for i in range(4):
        np.testing.assert_array_equal(data[i].target["keypoints"], made[i].target["keypoints"])
    annotation = json.loads(path.read_text())["annotations"][0]
    assert annotation["num_keypoints"] == 5 and len(annotation["keypoints"]) == 15


def test_report(tmp_path):
    made = content(POINTS, [7, 7, 0] * 3)
    made["annotations"][2]["iscrowd"] = 1
    found = report(open_dataset(make_coco(tmp_path, made), keypoints=True))
    assert (found.with_keypoints, found.keypoints) == (1, 2)
    assert "keypoints  3 of an object; 2 visible, on 1 of 2 objects" in str(found).splitlines()
    assert "keypoints" not in str(report(open_dataset(tmp_path)))


def test_mirror_partners():
    # nose; eyes 1 and 2, ears 3 and 4, and so on to the ankles 15 and 16.
    swapped = [k + 1 if k % 2 else k - 1 for k in range(1, 17)]
    assert mirror_partners(COCO_KEYPOINTS) == [0, *swapped]
    assert mirror_partners(["leftEye", "Eye-Left", "rightEye", "Eye-Right"]) == [2, 3, 0, 1]
    assert mirror_partners(["L_Paw", "R_Paw", "l knee", "r knee"]) == [1, 0, 3, 2]
    for names in (
        ["RShoulder", "LShoulder"],
        ["rightshoulder", "leftshoulder"],
        ["LF_elbow", "RF_elbow"],
        ["ear.L", "ear.R"],
        ["L ear", "R ear"],
    ):
        assert mirror_partners(names) == [1, 0]
    assert mirror_partners(["lip", "ring", "upright", "rear", "collar"]) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="left_ear name a side .*--keypoint-pairs"):
        mirror_partners(["left_ear", "nose"])
    assert mirror_partners(["left_ear", "nose"], ["left_ear:nose"]) == [1, 0]
    assert mirror_partners([]) == []
