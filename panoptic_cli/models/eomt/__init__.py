"""The model family EoMT (arXiv 2503.19108)."""
