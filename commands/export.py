"""placeholder, being written."""


def export() -> None:
    """Being written."""
    raise NotImplementedError
