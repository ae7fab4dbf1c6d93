"""The published checkpoints that have a name, with what is known about them. The table is published.yaml."""

from __future__ import annotations

import difflib
import functools
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.official_categories import coco_panoptic_categories
from panoptic_cli.errors import UsageError, listed

_FILE = "published.yaml"
_FLOAT32 = 4  # bytes


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedFile(_Entry):
    """A file of a checkpoint.

    Attributes:
        name: its name at the source.
        bytes: its size; None: the source says it.
        sha256: its checksum in hexadecimal; None: only the source's own checksum is compared.
    """

    name: str
    bytes: Annotated[int, Field(ge=0)] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class Published(_Entry):
    """A published checkpoint.

    Attributes:
        name: what the user calls it.
        architecture: family and size.
        figures: PQ and AP in percent on COCO val2017 by their name; empty for a backbone.
        measured_by: who reports the figures.
        parameters: number of values in the network.
        input_size: height and width of the network's input in pixels.
        licence: SPDX identifier.
        source: gs://BUCKET/PREFIX or hf://OWNER/REPO[@REVISION].
        files: its files; empty: not known before the source is asked.
        experiment: the preset; None for a backbone, which only initialises a training.
        schedule: the preset's schedule.
        categories: the category table; None for a backbone.
        backbone_of: the model family that a backbone initialises; None for a model.
    """

    name: str
    architecture: str
    figures: dict[str, float] = {}
    measured_by: str
    parameters: Annotated[int, Field(gt=0)]
    input_size: tuple[int, int]
    licence: str
    source: Annotated[str, Field(pattern="^(gs|hf)://[^/]+/.+[^/]$")]
    files: tuple[PublishedFile, ...] = ()
    experiment: str | None = None
    schedule: str | None = None
    categories: Literal["coco_panoptic"] | None = None
    backbone_of: Literal["panoptic_fpn", "eomt"] | None = None

    @model_validator(mode="after")
    def _is_a_model_or_a_backbone(self) -> Published:
        if not (self.experiment is None) == (self.categories is None) == (self.backbone_of is not None):
            raise ValueError("a model has an experiment and categories, a backbone has backbone_of instead")
        return self

    @property
    def is_backbone(self) -> bool:
        """Whether it is only a backbone."""
        return self.experiment is None

    @property
    def pq(self) -> float | None:
        """The reported PQ in percent."""
        return self.figures.get("PQ")

    @property
    def bytes(self) -> int | None:
        """The bytes to fetch; None where the table does not know them."""
        sizes = [file.bytes for file in self.files]
        return None if not sizes or None in sizes else sum(size for size in sizes if size is not None)

    @property
    def bytes_of_parameters(self) -> int:
        """The bytes that the parameters take in float32. A checkpoint with an optimizer's state is larger."""
        return self.parameters * _FLOAT32

    def table(self) -> CategoryTable | None:
        """Returns the categories that it was trained on, None for a backbone."""
        return None if self.categories is None else coco_panoptic_categories()


@functools.cache
def published_checkpoints() -> dict[str, Published]:
    """Returns the checkpoints of published.yaml by name, in its order."""
    text = (resources.files("panoptic_cli.weights") / _FILE).read_text(encoding="utf-8")
    return read_table(yaml.safe_load(text))


def read_table(entries: dict[str, dict[str, Any]]) -> dict[str, Published]:
    """Returns the checkpoints of a table by name.

    Args:
        entries: the fields by name, as in published.yaml.

    Raises:
        ValueError: an entry is not valid.
    """
    return {name: Published(name=name, **fields) for name, fields in entries.items()}


def find_published(name: str) -> Published:
    """Returns the checkpoint with a name.

    Raises:
        UsageError: there is none; the hint is the nearest name.
    """
    known = published_checkpoints()
    if name not in known:
        raise UsageError(f"There is no published checkpoint '{name}'.", suggestion(name))
    return known[name]


def suggestion(name: str) -> str:
    """Returns the hint for a name that does not exist: the nearest one, or all of them."""
    known = published_checkpoints()
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"panoptic models lists the names: {listed(list(known))}."


def published_at(address: str) -> Published | None:
    """Returns the checkpoint that an address belongs to, None if it is not a published one's.

    Args:
        address: gs://... or hf://..., without a trailing slash.
    """
    return next((item for item in published_checkpoints().values() if item.source == address), None)
