"""placeholder, being written."""


def predict() -> None:
    """Being written."""
    raise NotImplementedError
