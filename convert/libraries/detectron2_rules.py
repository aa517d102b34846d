"""detectron2's keys, as tables of rules: one for models with a pyramid, one for those without."""

from __future__ import annotations

from ..rename import Rule


def _resnet(theirs: str, ours: str, stages: tuple[int, ...]) -> list[Rule]:
    """A body's blocks; detectron2 counts the stem as the first of five stages."""
    rules = []
    for stage in stages:
        block, place = rf"{theirs}res{stage + 1}\.(\d+)", rf"{ours}layer{stage}.\1"
        rules += [
            Rule(rf"{block}\.conv(\d)\.weight", rf"{place}.conv\2.weight", "conv"),
            Rule(rf"{block}\.conv(\d)\.norm\.(\w+)", rf"{place}.bn\2.\3"),
            Rule(rf"{block}\.shortcut\.weight", rf"{place}.downsample.0.weight", "conv"),
            Rule(rf"{block}\.shortcut\.norm\.(\w+)", rf"{place}.downsample.1.\2"),
        ]
    return rules


def _body(theirs: str) -> list[Rule]:
    return [
        Rule(rf"{theirs}stem\.conv1\.weight", "backbone.net.conv1.weight", "conv"),
        Rule(rf"{theirs}stem\.conv1\.norm\.(\w+)", r"backbone.net.bn1.\1"),
        *_resnet(theirs, "backbone.net.", (1, 2, 3, 4)),
    ]


_DROPPED = (
    # Training with batch norm counts its batches; nothing reads the count.
    Rule(r".*\.num_batches_tracked", None),
    # Files of 2019 and 2020 hold constants of the model: read by recognise, not weights.
    Rule(r"pixel_(?:mean|std)", None),
    Rule(r"proposal_generator\.anchor_generator\.cell_anchors\.\d+", None),
)

_PYRAMID = tuple(
    Rule(
        rf"backbone\.fpn_{theirs}{level}\.(weight|bias)",
        rf"backbone.fpn.{ours}_blocks.{level - 2}.0.\1",
        "conv",
    )
    for theirs, ours in (("lateral", "inner"), ("output", "layer"))
    for level in range(2, 6)
)

_RPN = (
    Rule(r"proposal_generator\.rpn_head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1", "conv"),
    Rule(
        r"proposal_generator\.rpn_head\.objectness_logits\.(weight|bias)",
        r"rpn.head.cls_logits.\1",
        "anchors_sizes_first",
    ),
    Rule(
        r"proposal_generator\.rpn_head\.anchor_deltas\.(weight|bias)",
        r"rpn.head.bbox_pred.\1",
        "anchor_boxes_sizes_first",
    ),
)

# A cascade has a box head a stage, whose number stands behind `box_head.` and `box_predictor.`.
_STAGE = r"((?:\d\.)?)"
_PREDICTOR = rf"roi_heads\.box_predictor\.{_STAGE}"

_HEADS = (
    # flattened (C, h, w) there, (h, w, C) here
    Rule(rf"roi_heads\.box_head\.{_STAGE}fc1\.weight", r"roi_heads.box_head.\1fc6.weight", "flat"),
    Rule(rf"roi_heads\.box_head\.{_STAGE}fc1\.bias", r"roi_heads.box_head.\1fc6.bias"),
    Rule(rf"roi_heads\.box_head\.{_STAGE}fc2\.(weight|bias)", r"roi_heads.box_head.\1fc7.\2"),
    Rule(
        rf"{_PREDICTOR}cls_score\.(weight|bias)",
        r"roi_heads.box_predictor.\1cls_score.\2",
        "cls_background_last",
    ),
    Rule(
        rf"{_PREDICTOR}bbox_pred\.(weight|bias)",
        r"roi_heads.box_predictor.\1bbox_pred.\2",
        "reg_background_last",
    ),
    *(  # counted from 1 there
        Rule(
            rf"roi_heads\.{theirs}{i + 1}\.(weight|bias)",
            rf"roi_heads.{ours}.convs.{i}.\1",
            "conv",
        )
        for theirs, ours in (
            (r"mask_head\.mask_fcn", "mask_head"),
            (r"keypoint_head\.conv_fcn", "keypoint_head"),
        )
        for i in range(16)
    ),
    Rule(
        r"roi_heads\.mask_head\.deconv\.(weight|bias)",
        r"roi_heads.mask_predictor.conv5_mask.\1",
        "deconv",
    ),
    Rule(
        r"roi_heads\.mask_head\.predictor\.(weight|bias)",
        r"roi_heads.mask_predictor.mask_fcn_logits.\1",
        "mask_without_background",
    ),
    Rule(
        r"roi_heads\.keypoint_head\.score_lowres\.(weight|bias)",
        r"roi_heads.keypoint_predictor.kps_score_lowres.\1",
        "deconv",
    ),
)

RULES = (*_DROPPED, *_body(r"backbone\.bottom_up\."), *_PYRAMID, *_RPN, *_HEADS)
"""Of models with a feature pyramid."""

ONE_MAP_RULES = (
    *_DROPPED,
    *_body(r"backbone\."),
    # C4: the fourth stage works on RoIs
    *_resnet(r"roi_heads\.", "roi_heads.box_head.", (4,)),
    *_RPN,
    *_HEADS,
)
"""Of models with one map, C4 and DC5."""
