"""Writers of data sets: COCO, VOC, YOLO, LabelMe and CVAT, whole or not at all."""
