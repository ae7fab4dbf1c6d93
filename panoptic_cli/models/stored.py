"""What a network's variables are called, and how they are laid out, in files of other programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class StoredTensor(NamedTuple):
    """A tensor in a file.

    Attributes:
        name: its name in the file.
        shape: its shape; None stands for any size.
    """

    name: str
    shape: tuple[int | None, ...]


class StoredForm(NamedTuple):
    """A way in which a variable is stored.

    Attributes:
        tensors: the tensors that it is made of.
        combine: makes the variable's value from them, in this order. ValueError: their sizes do not allow it.
    """

    tensors: tuple[StoredTensor, ...]
    combine: Callable[..., np.ndarray]


class StoredVariable(NamedTuple):
    """A variable, and the ways in which it may be stored: the first whose tensors are in the file is read.

    Attributes:
        variable: the Keras variable.
        forms: at least one.
    """

    variable: Any
    forms: tuple[StoredForm, ...]


class StoredNetwork(NamedTuple):
    """The variables of a network in a folder of Hugging Face's layout.

    Attributes:
        variables: those that the folder has.
        ignored: names of tensors that are not needed.
        backbone_only: whether these are the variables of the backbone alone.
    """

    variables: list[StoredVariable]
    ignored: frozenset[str]
    backbone_only: bool
