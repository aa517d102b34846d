"""Drawing: what is drawn where, on any size, without touching what should not change."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlx_rcnn.outputs.draw import (
    _ink,
    _place_tag,
    _style,
    class_color,
    draw_detections,
    readable_scale,
)

GREY = 90


def grey(width, height):
    return np.full((height, width, 3), GREY, np.uint8)


def detections(boxes, labels=None, scores=None, **more):
    count = len(boxes)
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.linspace(0.9, 0.5, count, dtype=np.float32) if scores is None else scores,
        "labels": np.ones(count, np.int32) if labels is None else np.array(labels, np.int32),
        **more,
    }


def test_nothing_to_draw_changes_nothing():
    image = grey(40, 30)
    empty = detections([], masks=np.zeros((0, 30, 40), bool))
    picture = draw_detections(image, empty)
    assert picture.size == (40, 30) and picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), image)


def test_input_is_not_written_to():
    image = grey(200, 200)
    masks = np.ones((1, 200, 200), bool)
    prediction = detections([[10, 10, 90, 90]], masks=masks)
    draw_detections(image, prediction)
    assert (image == GREY).all() and masks.all()
    assert prediction["boxes"].tolist() == [[10, 10, 90, 90]]


def test_box_covers_its_border_pixels():
    # 200 x 200 gives lines of 1 pixel. A box from 50 to 90 covers the pixels 50..89.
    picture = np.asarray(draw_detections(grey(200, 200), detections([[50, 60, 90, 100]])))
    red = class_color(1)
    for y, x in ((99, 50), (99, 89), (80, 50), (80, 89)):
        assert tuple(picture[y, x]) == red
    for y, x in ((99, 49), (99, 90), (100, 60), (80, 51), (80, 88)):
        assert tuple(picture[y, x]) == (GREY,) * 3


def test_box_past_the_border_shows_all_four_sides():
    picture = np.asarray(draw_detections(grey(200, 200), detections([[-30, -30, 500, 500]])))
    for y, x in ((199, 100), (100, 0), (100, 199), (0, 199)):
        assert tuple(picture[y, x]) == class_color(1)


def test_mask_is_tinted_and_outlined():
    masks = np.zeros((1, 100, 200), bool)
    masks[0, 40:60, 30:70] = True
    # A box elsewhere: the mask is drawn where it is, not where its box is.
    prediction = detections([[150, 80, 160, 90]], masks=masks)
    picture = np.asarray(draw_detections(grey(200, 100), prediction, alpha=0.4)).astype(int)
    # alpha = 0.4 is 102 / 255: (1 - 0.4) * 90 + 0.4 * c = 54 + 0.4 c.
    expected = 54 + 0.4 * np.array(class_color(1))
    assert np.abs(picture[50, 50] - expected).max() <= 1
    assert tuple(picture[40, 50]) == tuple(picture[50, 69]) == class_color(1)
    assert tuple(picture[39, 50]) == tuple(picture[50, 70]) == (GREY,) * 3


def test_best_score_is_on_top_whatever_the_order():
    box = [20, 40, 180, 160]
    for labels, scores in (([1, 2], [0.9, 0.3]), ([2, 1], [0.3, 0.9])):
        prediction = detections([box, box], labels, np.array(scores, np.float32))
        picture = np.asarray(draw_detections(grey(200, 200), prediction))
        assert tuple(picture[100, 20]) == class_color(1)


def test_score_thresh_leaves_out_what_is_below():
    prediction = detections([[10, 50, 90, 190], [110, 50, 190, 190]], [1, 2], [0.9, 0.4])
    prediction["scores"] = np.array(prediction["scores"])
    picture = np.asarray(draw_detections(grey(200, 200), prediction, score_thresh=0.5))
    assert tuple(picture[120, 10]) == class_color(1)
    assert (picture[:, 100:] == GREY).all()


def test_names_are_written_and_unknown_labels_too():
    prediction = detections([[10, 100, 190, 190]], [7])
    named = draw_detections(grey(200, 200), prediction, ["__background__"] + ["cat"] * 7)
    numbered = draw_detections(grey(200, 200), prediction)
    short = draw_detections(grey(200, 200), prediction, ["__background__", "cat"])
    assert np.asarray(named).tolist() != np.asarray(numbered).tolist()
    assert np.asarray(short).tolist() == np.asarray(numbered).tolist()


def test_a_target_is_drawn_without_a_score():
    scored = detections([[10, 100, 190, 190]])
    target = {key: value for key, value in scored.items() if key != "scores"}
    scored, target = (
        np.asarray(draw_detections(grey(200, 200), item, score_thresh=0.9), int)
        for item in ({**scored, "scores": np.ones(1)}, target)
    )
    changed = (target != GREY).any(-1)
    assert changed[100:191, 10:191].any(), "the box is there, whatever the threshold"
    # Its tag is above the box, and narrower by the figure.
    tags = [(picture != GREY).any(-1)[:100].sum() for picture in (scored, target)]
    assert 0 < tags[1] < 0.8 * tags[0]


def test_float_images_and_pil_images():
    prediction = detections([[10, 20, 90, 80]])
    expected = np.asarray(draw_detections(grey(100, 100), prediction))
    floats = grey(100, 100).astype(np.float32) / 255
    for image in (floats, Image.fromarray(grey(100, 100))):
        np.testing.assert_array_equal(np.asarray(draw_detections(image, prediction)), expected)


def test_scale_enlarges_boxes_and_masks_alike():
    masks = np.zeros((1, 32, 32), bool)
    masks[0, 20:30, 4:14] = True
    prediction = detections([[4, 20, 14, 30]], masks=masks)
    picture = np.asarray(draw_detections(grey(32, 32), prediction, scale=8))
    assert picture.shape == (256, 256, 3)
    red = class_color(1)
    for y, x in ((239, 32), (239, 111), (200, 32)):  # 30 * 8 - 1 = 239, 4 * 8 = 32, 14 * 8 - 1
        assert tuple(picture[y, x]) == red
    assert tuple(picture[240, 60]) == tuple(picture[200, 112]) == (GREY,) * 3


def test_readable_scale():
    # 256 / 32 = 8; 256 / 100 = 2.56, rounded up; 1x1 stops at 16.
    sizes = {(32, 32): 8, (100, 20): 3, (255, 10): 2, (256, 1): 1, (6000, 4000): 1, (1, 1): 16}
    assert {size: readable_scale(*size) for size in sizes} == sizes


def linear(colour):
    """SRGB 0..255 to linear light 0..1 (IEC 61966-2-1)."""
    c = np.array(colour) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(colour):
    """CIE L*a*b* under D65, where a distance of 2.3 is just noticeable."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear(colour) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_colours_of_labels_are_apart():
    colours = np.array([lab(class_color(label)) for label in range(1, 91)])
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    for classes, least in ((5, 60), (10, 40), (20, 24), (90, 6)):
        assert distance[:classes, :classes].min() >= least


def test_text_contrast_is_at_least_4_5():
    def luminance(colour):
        return float(linear(colour) @ [0.2126, 0.7152, 0.0722])

    for label in range(200):
        dark, light = sorted([luminance(class_color(label)), luminance(_ink(class_color(label)))])
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_sizes_follow_the_image():
    small, large = _style(32, 32), _style(6000, 4000)
    assert small.line == 1 and small.font == 10
    # sqrt(6000 * 4000) = 4899: / 480 = 10.2, * 0.0155 = 75.9
    assert large.line == 10 and large.font == 76
    assert _style(4000, 30).font == 10  # a third of the height


@given(
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.lists(st.tuples(*[st.floats(-0.3, 1.3)] * 4), max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_any_boxes_on_any_size(size, fractions):
    width, height = size
    boxes = np.array(fractions, np.float64).reshape(-1, 4) * [width, height, width, height]
    prediction = detections(boxes, masks=np.ones((len(boxes), height, width), bool))
    picture = draw_detections(grey(width, height), prediction, ["__background__", "hair drier"])
    assert picture.size == size


@given(
    st.integers(20, 600),
    st.integers(20, 600),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_tags_stay_inside_the_image(width, height, fractions):
    taken = []
    for x1, y1, x2, y2 in fractions:
        box = tuple(
            int(v * (n - 1))
            for v, n in zip(
                (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)),
                (width, height) * 2,
                strict=True,
            )
        )
        tag = _place_tag(box, "traffic light", 0.5, _style(width, height), (width, height), taken)
        if tag is not None:
            left, top, right, bottom = tag.rect
            assert 0 <= left <= right < width and 0 <= top <= bottom < height
            taken.append(tag.rect)


def test_tags_of_one_box_do_not_hide_each_other():
    taken = []
    for _ in range(4):
        tag = _place_tag((200, 200, 400, 400), "person", 0.9, _style(800, 600), (800, 600), taken)
        for other in taken:
            apart_x = tag.rect[2] < other[0] or other[2] < tag.rect[0]
            apart_y = tag.rect[3] < other[1] or other[3] < tag.rect[1]
            assert apart_x or apart_y
        taken.append(tag.rect)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.ones(3)}, "2 boxes, 3 scores and 2 labels"),
        ({"labels": np.ones(1, int)}, "2 boxes, 2 scores and 1 labels"),
        ({"masks": np.ones((2, 28, 28))}, r"shape \(2, 28, 28\): expected \(2, 30, 40\)"),
    ],
)
def test_arrays_that_do_not_belong_together(change, message):
    with pytest.raises(ValueError, match=message):
        draw_detections(grey(40, 30), {**detections([[1, 1, 9, 9], [2, 2, 8, 8]]), **change})


def test_alpha_out_of_range():
    with pytest.raises(ValueError, match="alpha=1.5"):
        draw_detections(grey(40, 30), detections([]), alpha=1.5)


def test_hundred_masks_of_full_hd_take_seconds_at_most():
    random = np.random.default_rng(0)
    corner = random.uniform(0, 0.5, (100, 2)) * [1920, 1080]
    boxes = np.concatenate([corner, corner + [400, 300]], axis=1)
    masks = np.zeros((100, 1080, 1920), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    prediction = detections(boxes, random.integers(1, 91, 100), masks=masks)
    began = time.perf_counter()
    draw_detections(grey(1920, 1080), prediction)
    assert time.perf_counter() - began < 5  # 0.3 s measured; the rest is for busy machines
