"""What the config that an mmdetection file carries says of its model, as fields of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..files.python_config import read_python_config
from .mmdetection_heads import head_fields
from .mmdetection_values import (
    at,
    count,
    inverse,
    length,
    number,
    numbers,
    pair,
    share,
    size,
    switch,
    whole,
    wholes,
)

Reader = Callable[[object], object]


class MmdetConfig(NamedTuple):
    """A config as far as it was understood."""

    fields: dict[str, object]  # of the detector's config
    style: str | None = None  # ``"pytorch"`` or ``"caffe"``
    # (mean, deviation, order) in the order of RGB
    image: tuple[tuple[float, ...], tuple[float, ...], str] | None = None
    class_names: tuple[str, ...] | None = None  # without a background
    coco: bool = False  # whether its data is COCO's with COCO's classes
    differs: tuple[str, ...] = ()  # what it sets and this package cannot
    mask_pool_size: int | None = None  # the side of a mask head's RoIs


# A field of ours, the places it may stand at in the config (2.x and 3.x), and how it is read.
def _places() -> tuple[tuple[str, tuple[str, ...], Reader], ...]:
    test, train = ("model.test_cfg.", "test_cfg."), ("model.train_cfg.", "train_cfg.")

    def both(where: tuple[str, str], *names: str) -> tuple[str, ...]:
        return tuple(start + name for start in where for name in names)

    return (
        ("rpn_pre_nms_top_n_test", both(test, "rpn.nms_pre"), whole),
        ("rpn_post_nms_top_n_test", both(test, "rpn.max_per_img", "rpn.max_num"), whole),
        ("rpn_nms_thresh", both(test, "rpn.nms.iou_threshold", "rpn.nms_thr"), share),
        ("rpn_min_size", both(test, "rpn.min_bbox_size"), size),
        ("box_score_thresh", both(test, "rcnn.score_thr"), share),
        ("box_nms_thresh", both(test, "rcnn.nms.iou_threshold", "rcnn.nms.iou_thr"), share),
        ("box_detections_per_img", both(test, "rcnn.max_per_img"), whole),
        ("rpn_pre_nms_top_n_train", both(train, "rpn_proposal.nms_pre"), whole),
        (
            "rpn_post_nms_top_n_train",
            both(train, "rpn_proposal.max_per_img", "rpn_proposal.max_num"),
            whole,
        ),
        ("rpn_fg_iou_thresh", both(train, "rpn.assigner.pos_iou_thr"), share),
        ("rpn_bg_iou_thresh", both(train, "rpn.assigner.neg_iou_thr"), share),
        ("rpn_batch_size_per_image", both(train, "rpn.sampler.num"), whole),
        ("rpn_positive_fraction", both(train, "rpn.sampler.pos_fraction"), share),
        ("box_fg_iou_thresh", both(train, "rcnn.assigner.pos_iou_thr"), share),
        ("box_bg_iou_thresh", both(train, "rcnn.assigner.neg_iou_thr"), share),
        ("box_batch_size_per_image", both(train, "rcnn.sampler.num"), whole),
        ("box_positive_fraction", both(train, "rcnn.sampler.pos_fraction"), share),
        ("aspect_ratios", ("model.rpn_head.anchor_generator.ratios",), numbers),
        ("anchor_stride", ("model.rpn_head.anchor_generator.strides",), wholes),
        ("anchor_offset", ("model.rpn_head.anchor_generator.center_offset",), number),
        ("pool_size", ("model.roi_head.bbox_roi_extractor.roi_layer.output_size",), pair),
        (
            "roi_sampling_ratio",
            ("model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio",),
            count,
        ),
        ("roi_aligned", ("model.roi_head.bbox_roi_extractor.roi_layer.aligned",), switch),
        ("roi_levels", ("model.roi_head.bbox_roi_extractor.featmap_strides",), length),
        ("bbox_reg_weights", ("model.roi_head.bbox_head.bbox_coder.target_stds",), inverse),
        ("size_divisible", ("model.data_preprocessor.pad_size_divisor",), whole),
    )


# What must stand at a place, if anything does, for this package to compute the same.
_EXPECTED: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("model.rpn_head.anchor_generator.type", ("AnchorGenerator",)),
    ("model.rpn_head.anchor_generator.scale_major", (True,)),
    ("model.rpn_head.bbox_coder.target_means", (0,)),
    ("model.rpn_head.bbox_coder.target_stds", (1,)),
    ("model.rpn_head.loss_cls.use_sigmoid", (True,)),
    ("model.roi_head.bbox_head.bbox_coder.target_means", (0,)),
    ("model.roi_head.bbox_head.loss_cls.use_sigmoid", (False,)),
    ("model.roi_head.bbox_roi_extractor.finest_scale", (56,)),
    ("model.roi_head.bbox_roi_extractor.roi_layer.type", ("RoIAlign",)),
    ("model.test_cfg.rpn.nms.type", ("nms",)),
    ("model.test_cfg.rcnn.nms.type", ("nms", "soft_nms")),
    ("model.test_cfg.rcnn.mask_thr_binary", (0.5,)),
    ("model.backbone.strides", (1, 2)),
    ("model.backbone.dilations", (1,)),
)


def read_mmdet_config(text: str) -> MmdetConfig | None:
    """What a config's text, Python of mmdetection 2 or 3, says; ``None`` if it cannot be read."""
    if not text.strip():
        return None
    try:
        values, skipped = read_python_config(text)
    except ValueError:
        return None
    fields: dict[str, object] = {}
    differs = [f"line {line} of its config is no data" for line in skipped[:3]]
    differs += ["..."] * (len(skipped) > 3)
    for name, places, read in _places():
        for place in places:
            if (found := at(values, place)) is not None:
                # a value of another type than expected is said and passed over
                if (value := read(found)) is None:
                    differs.append(f"{place}={found!r}"[:100])
                else:
                    fields[name] = value
                break
    fields |= _anchor_sizes(values) | _sizes(values, differs) | head_fields(values)
    for place, allowed in _EXPECTED:
        found = at(values, place)
        flat = found if isinstance(found, list | tuple) else [found]
        if found is not None and not all(v in allowed for v in flat):
            differs.append(f"{place}={found!r}"[:100])
    style = at(values, "model.backbone.style") or at(values, "backbone.style")
    side = pair(at(values, "model.roi_head.mask_roi_extractor.roi_layer.output_size"))
    square = side[0] if side and side[0] == side[1] else None
    names, coco = _classes(values)
    known = style if style in ("pytorch", "caffe") else None
    return MmdetConfig(fields, known, _image(values), names, coco, tuple(differs), square)


def _anchor_sizes(values: Mapping[str, object]) -> dict[str, object]:
    """A level's base size, which is its stride unless it is given, times each scale."""
    bases, strides, scales = (
        at(values, f"model.rpn_head.anchor_generator.{name}")
        for name in ("base_sizes", "strides", "scales")
    )
    bases, scales = numbers(bases or strides), numbers(scales)
    if bases is None or scales is None:
        return {}
    return {"anchor_sizes": tuple(tuple(base * scale for scale in scales) for base in bases)}


def _sizes(values: Mapping[str, object], differs: list[str]) -> dict[str, object]:
    """Sides of the test images, and what they are padded to."""
    fields: dict[str, object] = {}
    for step in _pipeline(values):
        scale = numbers(step.get("scale", step.get("img_scale")))
        if step.get("type") in ("Resize", "MultiScaleFlipAug") and scale and len(scale) == 2:
            fields |= {"min_size": int(min(scale)), "max_size": int(max(scale))}
        if step.get("type") == "Resize" and step.get("keep_ratio") is False:
            differs.append("Resize with keep_ratio=False")
        if step.get("type") == "Pad" and (divisor := whole(step.get("size_divisor"))):
            fields["size_divisible"] = divisor
    return fields


def _pipeline(values: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The steps a test image goes through, those within others after them."""
    for place in (
        "test_dataloader.dataset.pipeline",
        "data.test.pipeline",
        "test_pipeline",
        "data.val.pipeline",
        "val_dataloader.dataset.pipeline",
    ):
        if isinstance(found := at(values, place), list | tuple):
            return list(_steps(found))
    return []


def _steps(found: Sequence[object]) -> Iterator[Mapping[str, object]]:
    for step in found:
        if isinstance(step, Mapping):
            yield step
            inner = step.get("transforms")
            if isinstance(inner, list | tuple):
                yield from _steps([s for s in inner if isinstance(s, Mapping)])


def _image(values: Mapping[str, object]) -> tuple[tuple[float, ...], tuple[float, ...], str] | None:
    """Mean, deviation (both in the order of RGB) and channel order."""
    steps = [step for step in _pipeline(values) if step.get("type") == "Normalize"]
    own = (at(values, "model.data_preprocessor"), values.get("data_preprocessor"))
    places = (*own, *steps, values.get("img_norm_cfg"))
    for found in places:
        if not isinstance(found, Mapping):
            continue
        mean, std = (numbers(found.get(name)) for name in ("mean", "std"))
        rgb = found.get("bgr_to_rgb", found.get("to_rgb", found in steps))
        if mean and std and len(mean) == len(std) == 3 and isinstance(rgb, bool):
            return (mean, std, "rgb") if rgb else (mean[::-1], std[::-1], "bgr")
    return None


def _classes(values: Mapping[str, object]) -> tuple[tuple[str, ...] | None, bool]:
    """The names of the classes, or whether they are COCO's, as the data's type says."""
    datasets = ("test_dataloader.dataset", "data.test", "train_dataloader.dataset", "data.train")
    kinds = [at(values, f"{place}.type") for place in datasets] + [values.get("dataset_type")]
    places = [f"{place}.{name}" for place in datasets for name in ("metainfo.classes", "classes")]
    for place in (*places, "metainfo.classes", "metainfo.CLASSES", "classes", "CLASSES"):
        found = at(values, place)
        if isinstance(found, list | tuple) and found and all(isinstance(n, str) for n in found):
            return tuple(found), False
        if found is not None:  # a file elsewhere, or an expression
            return None, False
    kind = next((kind for kind in kinds if isinstance(kind, str)), None)
    return None, kind == "CocoDataset"
