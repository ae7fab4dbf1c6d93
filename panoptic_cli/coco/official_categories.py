"""The 133 categories of COCO's panoptic annotations, which published checkpoints were trained on."""

from __future__ import annotations

import functools
import json
from importlib import resources

from panoptic_cli.categories import CategoryTable

_FILE = "panoptic_categories.json"


@functools.cache
def coco_panoptic_categories() -> CategoryTable:
    """Returns COCO's table: 80 things and 53 stuff categories in ascending order of their ids, 1 to 200.

    Source: the `categories` of panoptic_train2017.json and panoptic_val2017.json, which are equal.
    """
    text = (resources.files("panoptic_cli.coco") / _FILE).read_text(encoding="utf-8")
    return CategoryTable.from_list(json.loads(text), _FILE)
