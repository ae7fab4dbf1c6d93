"""Dividing the pictures of one annotation file among train and val."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from panoptic_cli.coco.dataset import PanopticDataset, require_sound
from panoptic_cli.errors import DataError


@dataclass(frozen=True)
class Share:
    """A part of the pictures of an annotation file.

    A picture's part follows from its file name and the seed alone. So it is the same at every run, and other pictures
    keep their part when some are added or removed.

    Attributes:
        name: "train" or "val".
        val_share: share of the pictures that become "val", 0..1; each part gets at least one picture.
        seed: another seed divides them in another way.
    """

    name: str
    val_share: float
    seed: int = 0

    def of(self, dataset: PanopticDataset) -> PanopticDataset:
        """Returns the data set with the pictures of this part alone. All that it says of others stays with "train".

        Raises:
            DataError: there are fewer than two pictures.
        """
        pictures = dataset.pictures
        places = np.array([self._place(pictures.names(index)[0]) for index in range(len(pictures))])
        if len(np.unique(places)) < 2:
            require_sound(dataset)  # names the problems of the others
            raise DataError(
                f"{dataset.files.panoptic_annotations} has fewer than two usable pictures, so --val-share cannot "
                "divide them.",
                "Annotate more pictures.",
            )
        val = places < np.clip(self.val_share, np.nextafter(places.min(), 1), places.max())
        if self.name == "val":
            chosen = pictures.select(np.flatnonzero(val))
            return replace(dataset, pictures=chosen, problems=(), ignored_objects={}, notes=())
        return replace(dataset, pictures=pictures.select(np.flatnonzero(~val)))

    def _place(self, file_name: str) -> float:
        """Returns a picture's place in 0..1."""
        digest = hashlib.sha256(f"{self.seed} {file_name}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48
