"""What is made of detections: pictures, skeletons and COCO results."""
