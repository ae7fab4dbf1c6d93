"""Pixels: reading and writing pictures and PNGs, run lengths, drawing."""
