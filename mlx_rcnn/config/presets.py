"""What the models of torchvision's zoo, and of the papers, set besides their backbone."""

from __future__ import annotations

# What torchvision's builders set besides the backbone.
V1 = {"norm": "frozen", "norm_eps": 0.0, "dropout": 0.0}
V2 = {
    "fpn_norm": "batch",
    "rpn_conv_depth": 2,
    "box_head_convs": 4,
    "box_head_norm": "batch",
    "dropout": 0.0,
}
MOBILENET = {
    "anchor_sizes": (32, 64, 128, 256, 512),
    "rpn_score_thresh": 0.05,
    "dropout": 0.0,
}
MOBILENET_320 = {
    **MOBILENET,
    "min_size": 320,
    "max_size": 640,
    "rpn_pre_nms_top_n_test": 150,
    "rpn_post_nms_top_n_test": 150,
}
# Fast and Faster R-CNN as published: one map of stride 16, and the defaults of a box head.
PLAIN = {"roi_pooling": "pool", "roi_levels": 1, "min_size": 600, "max_size": 1000}
