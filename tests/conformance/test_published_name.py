"""The reference's checkpoint under its published name: what a user has after the files were fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panoptic_cli.coco.official_categories import coco_panoptic_categories
from panoptic_cli.runs.model_source import find_model

pytestmark = [pytest.mark.slow, pytest.mark.shared]


def test_the_name_loads_every_weight_of_the_reference(
    reference_checkpoint: str, reference_network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from panoptic_cli.inference.predictor import load_model

    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path))
    (tmp_path / "panoptic_fpn_r50_1x").mkdir()
    for path in Path(reference_checkpoint).parent.glob("ckpt-1.*"):  # as the hint of the offline error says
        (tmp_path / "panoptic_fpn_r50_1x" / path.name).symlink_to(path)
    source = find_model(None, "panoptic_fpn_r50_1x")
    assert source.table == source.own_table == coco_panoptic_categories()
    assert source.experiment.trainer.train_steps == 22500
    model = load_model(source.experiment, source.table, source.fetch())
    pairs = list(zip(model.network.variables, reference_network.variables, strict=True))
    assert len(pairs) == 441
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
