"""Exported models: SavedModels, TensorFlow Lite and ONNX files."""
