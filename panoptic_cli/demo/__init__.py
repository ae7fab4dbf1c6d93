"""All stages on generated data."""
