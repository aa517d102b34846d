"""Readers of YOLO, LabelMe and CVAT annotations, and how a format is recognised."""
