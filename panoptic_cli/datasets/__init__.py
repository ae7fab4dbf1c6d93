"""Data sets: COCO files, the generated shapes, records, and the tf.data pipeline."""
