"""What a prediction is, and COCO's result files."""
