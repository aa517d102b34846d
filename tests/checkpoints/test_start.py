"""Detectors started from checkpoints of another kind."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlx_rcnn
import tiny
from mlx_rcnn import CascadeRCNN, FasterRCNN, MaskRCNN, ResNetFPNConfig, start_from
from mlx_rcnn.checkpoints.weights import flat_parameters
from mlx_rcnn.models.builders import divided

NAMES = ("__background__", "a", "b", "c")


def builder(cls, depth=18):
    """One as those of the package, but small: 16 channels, group norm."""

    def build(num_classes=4, backbone_num_classes=0, **config):
        fixed = {"depth": depth, "num_classes": backbone_num_classes}
        usual = {"norm": "group", "norm_groups": 4, "width": 16, "out_channels": 16}
        body, detector = divided(cls, ResNetFPNConfig, fixed, {**usual, "use_fpn": True, **config})
        return cls(body, body.out_channels, num_classes, **detector)

    return build


def same(model, other, start) -> bool:
    a, b = flat_parameters(model), flat_parameters(other)
    names = [name for name in a if name.startswith(start)]
    return bool(names) and all(name in b and mx.array_equal(a[name], b[name]) for name in names)


def faster(**options):
    return tiny.build(class_names=NAMES, image_mean=(0.1, 0.2, 0.3), min_size=77, **options)


def test_a_mask_rcnn_of_a_faster_rcnn_and_back(tmp_path):
    found = faster()
    mlx_rcnn.save(found, tmp_path / "faster")
    model, taken = start_from(builder(MaskRCNN), tmp_path / "faster", mask_hidden_channels=8)
    assert isinstance(model, MaskRCNN)
    assert same(model, found, ("backbone.", "rpn.", "roi_heads.box"))
    assert taken.taken == ("backbone", "rpn", "roi_heads.box_head", "roi_heads.box_predictor")
    assert taken.new == ("roi_heads.mask_head", "roi_heads.mask_predictor")
    assert taken.unused == () and taken.arrays == len(flat_parameters(found))
    assert str(taken) == (
        f"{taken.arrays} arrays of backbone, rpn, roi_heads.box_head, roi_heads.box_predictor; "
        "new: roi_heads.mask_head, roi_heads.mask_predictor"
    )
    # The settings, the names and the backbone's widths and norms come with the weights.
    config = model.config
    assert (config.image_mean, config.min_size, config.hidden_dim) == ((0.1, 0.2, 0.3), 77, 8)
    assert model.class_names == NAMES and config.backbone == found.config.backbone
    assert model.source.startswith("MaskRCNN from ")
    again, taken = start_from(builder(FasterRCNN), model)
    assert same(again, found, "") and taken.new == ()
    assert taken.unused == ("roi_heads.mask_head", "roi_heads.mask_predictor")
    image = tiny.shapes(1)[0].image
    [a], [b] = found.predict(image, score_thresh=0.0), again.predict(image, score_thresh=0.0)
    assert (
        len(a["boxes"]) and (a["boxes"] == b["boxes"]).all() and (a["scores"] == b["scores"]).all()
    )


def test_a_cascade_has_heads_of_its_own():
    found = faster(box_nms_thresh=0.3)
    model, taken = start_from(builder(CascadeRCNN), found)
    assert same(model, found, ("backbone.", "rpn."))
    assert taken.taken == ("backbone", "rpn")
    assert taken.new == ("roi_heads.box_head", "roi_heads.box_predictor") == taken.unused
    fresh = builder(CascadeRCNN)()
    for name in ("class_agnostic_bbox", "cascade_ious"):  # by the kind
        assert getattr(model.config, name) == getattr(fresh.config, name)
    assert model.config.box_nms_thresh == 0.3


def test_other_classes():
    model, taken = start_from(builder(FasterRCNN), faster(), num_classes=7)
    assert taken.new == ("roi_heads.box_predictor",)
    assert model.class_names is None and model.num_classes == 7


def test_other_backbones_are_refused():
    with pytest.raises(
        ValueError, match="backbone of depth 18, and the model a backbone of depth 50"
    ):
        start_from(builder(FasterRCNN, 50), faster())
    with pytest.raises(ValueError, match="as its backbone ResNetFPNConfig, .* VGGConfig: expected"):
        start_from(mlx_rcnn.faster_rcnn_vgg_16, faster())
    with pytest.raises(ValueError, match="another backbone than the model, such as in backbone"):
        start_from(builder(FasterRCNN), faster(norm="frozen"), norm="group")
    with pytest.raises(TypeError, match="hidden_dims"):
        start_from(builder(FasterRCNN), faster(), hidden_dims=3)
