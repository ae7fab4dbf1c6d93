"""Download data sets with aria2 and upload files to Cloud Storage."""
