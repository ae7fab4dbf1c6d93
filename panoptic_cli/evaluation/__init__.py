"""Panoptic quality, COCO average precision, prediction files, and the evaluation loop."""
