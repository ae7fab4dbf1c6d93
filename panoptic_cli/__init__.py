"""Panoptic CLI: train, evaluate and export Panoptic FPN models with TensorFlow."""

__version__ = "0.2.0"
