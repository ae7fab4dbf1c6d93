"""EoMT (arXiv 2503.19108): a plain vision transformer that segments with queries."""
