"""The whole way on generated data."""
