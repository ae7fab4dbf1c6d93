"""Panoptic CLI: train, evaluate and export panoptic segmentation models (EoMT and Panoptic FPN) in TensorFlow."""

__version__ = "0.2.0"
