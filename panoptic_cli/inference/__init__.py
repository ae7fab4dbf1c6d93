"""A loaded network on pictures."""
