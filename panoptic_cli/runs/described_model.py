"""Models that a config.json in Hugging Face's layout describes: their configuration and categories."""

from __future__ import annotations

from typing import Any, NamedTuple

from panoptic_cli import config, console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.official_categories import coco_panoptic_categories
from panoptic_cli.config.hugging_face import (
    CONFIG_FILE,
    DescribedNetwork,
    described_network,
    find_folder,
    read_config,
)
from panoptic_cli.errors import RunError, UsageError, listed

_FAMILY = "eomt"
_DEFAULT_PRESET = "eomt_coco_large_640"
MADE_UP = "LABEL_"  # how transformers names the classes of a network without names


class DescribedModel(NamedTuple):
    """A folder in Hugging Face's layout.

    Attributes:
        path: its config.json.
        network: what it describes.
    """

    path: str
    network: DescribedNetwork

    @property
    def preset(self) -> str:
        """The preset that has this network; that of the large one if none has."""
        for name in config.preset_names():
            model = config.load_experiment(name).task.model
            if model.type == _FAMILY and model.eomt == self.network.model:
                return name
        return _DEFAULT_PRESET

    def settings(self) -> dict[str, Any]:
        """Returns the network's part of a configuration."""
        return {"task": {"model": {"type": _FAMILY, _FAMILY: self.network.model.model_dump(mode="json")}}}

    def coco_categories(self) -> CategoryTable | None:
        """Returns COCO's categories if the network has as many classes, and no other names for them."""
        table, labels = coco_panoptic_categories(), self.network.labels
        if labels is None or len(labels) != len(table.categories):
            return None
        named = {label for label in labels if not label.startswith(MADE_UP)}
        return table if not named or len(named & {c.name for c in table.categories}) > len(named) / 2 else None

    def ordered(self, table: CategoryTable, source: str) -> CategoryTable:
        """Brings categories into the order of the network's classes: by name, or as they are if the names differ.

        Args:
            table: the categories.
            source: where they come from, for messages.

        Raises:
            UsageError: there are more or fewer than classes.
        """
        labels = self.network.labels
        if labels is None:
            return table
        if len(labels) != len(table.categories):
            raise UsageError(
                f"{source} has {len(table.categories)} categories, but the network of {self.path} has {len(labels)} "
                "classes.",
                "Give those that it was trained with, in the order of its classes: --categories FILE.",
            )
        by_name = {category.name: category for category in table.categories}
        if set(by_name) == set(labels):
            return CategoryTable(tuple(by_name[label] for label in labels))
        if not all(label.startswith(MADE_UP) for label in labels):
            strange = [label for label in labels if label not in by_name]
            console.info(
                f"{self.path} names {len(strange)} classes otherwise than {source}, such as {listed(strange, 3)}; the "
                "categories are taken in their order."
            )
        return table

    def without_categories(self) -> UsageError:
        """Returns the error for a network whose categories nothing tells."""
        labels = self.network.labels
        count = "its" if labels is None else f"its {len(labels)}"
        return UsageError(
            f"{self.path} does not say which of {count} classes are things and which are stuff.",
            "Give a panoptic JSON or a categories.json with --categories FILE.",
        )


def find_described(place: str) -> DescribedModel | None:
    """Returns the model of a folder in Hugging Face's layout, None for other checkpoints. Says what is assumed.

    Args:
        place: a folder or prefix, local or gs://.

    Raises:
        RunError: the folder has a network that is not supported, or a backbone alone.
    """
    folder = find_folder(place)
    if folder is None:
        return None
    path = f"{folder}/{CONFIG_FILE}"
    content = read_config(folder)
    if content is None:
        raise RunError(f"{folder} has no {CONFIG_FILE}.", "Copy or download the folder again.")
    network = described_network(content, path)
    for note in network.notes:
        console.info(note)
    return DescribedModel(path, network)
