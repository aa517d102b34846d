"""torchvision's v2 and MobileNetV3 models as the goldens of make_zoo.py have them."""

PHOTOS = ("stop.jpg", "deck.jpg")
V2 = {"min_size": 160, "max_size": 256, "box_score_thresh": 0.4}
CASES = {  # options of the builders; the sizes of the 320 model are its own
    "fasterrcnn_resnet50_fpn_v2": V2,
    "maskrcnn_resnet50_fpn_v2": V2,
    "fasterrcnn_mobilenet_v3_large_fpn": {"min_size": 256, "max_size": 400},
    "fasterrcnn_mobilenet_v3_large_320_fpn": {},
}
