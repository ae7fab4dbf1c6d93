"""placeholder, being written."""


def demo() -> None:
    """Being written."""
    raise NotImplementedError
