"""The two ends of the pipeline: downloads through aria2 and uploads to Cloud Storage."""
