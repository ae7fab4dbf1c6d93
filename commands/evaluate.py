"""placeholder, being written."""


def evaluate() -> None:
    """Being written."""
    raise NotImplementedError
