"""Whatever is in the files: panoptic data without errors, or one clear error."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_changes import json_changes
from PIL import Image

from panoptic_cli import console
from panoptic_cli.coco.layout import OwnFiles
from panoptic_cli.composition.composition import compose_all
from panoptic_cli.composition.plans import CompositionPlan
from panoptic_cli.errors import PanopticError
from panoptic_cli.inspection.dataset import inspect_split

_SLOW = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
_IMAGES = [{"id": i, "file_name": f"{i}.jpg", "width": 30 + i, "height": 20} for i in range(1, 4)]
_RUNS = {"size": [20, 31], "counts": [100, 200, 320]}
_FILES: dict[str, Any] = {
    "instances": {
        "images": _IMAGES,
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 2, "segmentation": _RUNS, "iscrowd": 1},
            {"id": 3, "image_id": 2, "category_id": 2, "segmentation": [[1, 1, 40, 1, 40, 9]], "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}],
    },
    "stuff": {
        "images": _IMAGES,
        "annotations": [{"id": 1, "image_id": 3, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}],
        "categories": [{"id": 1, "name": "sky", "isthing": 0}, {"id": 2, "name": "person", "color": [1, 2, 3]}],
    },
}


@pytest.mark.slow
@_SLOW
@given(
    values=json_changes(_FILES),
    on_bad_data=st.sampled_from(["fail", "skip"]),
    semantic=st.booleans(),
    labels=st.sets(st.sampled_from([0, 1, 2, 255, 7]), min_size=1, max_size=3),
)
def test_any_files(
    values: dict[str, Any], on_bad_data: Literal["fail", "skip"], semantic: bool, labels: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        for name, value in values.items():
            (folder / f"{name}.json").write_text(json.dumps(value))
        for number in range(1, 4):
            pixels = np.resize(np.array(sorted(labels), np.uint8), 20 * (30 + number)).reshape(20, -1)
            Image.fromarray(pixels).save(folder / f"{number}.jpg")
            Image.fromarray(pixels).save(folder / f"{number}.png")
        plan = CompositionPlan("all", folder / "instances.json", folder / "out.json", folder / "out", folder)
        if semantic:
            files = {"semantic_masks": folder, "stuff_categories": folder / "stuff.json"}
        else:
            files = {"stuff_annotations": folder / "stuff.json"}
        console.configure(verbosity=-1)
        try:
            (summary,) = compose_all([CompositionPlan(**{**vars(plan), **files, "on_bad_data": on_bad_data})], 1)
        except PanopticError:  # anything else fails the test
            assert not plan.output.exists()
            return
        assert not list(plan.masks_dir.rglob("*.partial"))
        report = inspect_split(OwnFiles(folder, plan.output, plan.masks_dir).split(), 1)
        tolerated = {
            "picture missing",
            "picture size differs from the JSON",
            "malformed images",
            "malformed annotations",
        }
        errors = {kind for kind, finding in report.findings.by_kind.items() if finding.severity == "error"}
        assert errors <= tolerated  # what concerns the pictures and their entries, which are taken over as they stand
        assert errors or report.counts["pictures"] == summary.pictures
