"""The record schema, TFRecord files, and conversion to them."""
