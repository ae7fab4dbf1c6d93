"""`predict --saved-model`: an exported model predicts the same as the checkpoint, which it does not need."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from decided_pixels import decided_in_picture
from panoptic_cli.commands.main import run

from panoptic_cli.errors import DataError
from panoptic_cli.images.pictures import find_pictures, read_picture
from panoptic_cli.inference.predictor import LoadedModel, Predictor


@pytest.mark.slow
@pytest.mark.parametrize(("input_type", "batch_size"), [("image_tensor", None), ("image_bytes", 2)])
def test_predictions_equal_those_of_the_checkpoint(
    tiny_model: LoadedModel,
    tiny_predictor: Predictor,
    shapes_dir: Path,
    tmp_path: Path,
    input_type: str,
    batch_size: int | None,
) -> None:
    from panoptic_cli.export.exported_model import ExportedModel
    from panoptic_cli.export.saved_model import export_saved_model

    export_saved_model(tiny_model, tmp_path / "exported", input_type=input_type, batch_size=batch_size)
    exported = ExportedModel(tmp_path / "exported")
    assert exported.table == tiny_model.table
    assert exported.step == tiny_model.step
    pixels = read_picture(find_pictures([str(shapes_dir / "val2017")])[0])
    ours, theirs = tiny_predictor.predict(pixels), exported.predict(pixels)
    # float32 sums have another order, because preprocessing and network are one graph here.
    decided = decided_in_picture(tiny_predictor, pixels)
    for name in ("category_map", "instance_map", "segment_map", "semantic_map"):
        np.testing.assert_array_equal(getattr(theirs, name)[decided], getattr(ours, name)[decided], err_msg=name)
    assert [s.category_id for s in theirs.segments] == [s.category_id for s in ours.segments]
    moved = sum(abs((a.area or 0) - (b.area or 0)) for a, b in zip(theirs.segments, ours.segments, strict=True))
    assert moved <= 2 * np.count_nonzero(~decided)  # each such pixel leaves one segment and joins another
    np.testing.assert_array_equal(theirs.detections.category_ids, ours.detections.category_ids)
    # Boxes are in pixels.
    np.testing.assert_allclose(theirs.detections.boxes, ours.detections.boxes, atol=1e-3)
    assert len(ours.detections.scores) > 0
    same = [np.array_equal(a, b) for a, b in zip(theirs.detections.masks, ours.detections.masks, strict=True)]
    assert np.mean(same) > 0.9  # the last bits of a box may decide a pixel at the threshold


def test_a_folder_without_a_saved_model_is_an_error(tmp_path: Path) -> None:
    from panoptic_cli.export.exported_model import ExportedModel

    with pytest.raises(DataError, match="not a SavedModel of panoptic export"):
        ExportedModel(tmp_path)


def test_a_model_that_is_cut_short_is_one_error(tmp_path: Path) -> None:
    import tensorflow as tf

    from panoptic_cli.export.exported_model import ExportedModel
    from panoptic_cli.export.saved_model import ASSET

    module = tf.Module()
    module.weights = tf.Variable(tf.zeros([100]))
    tf.saved_model.save(module, tmp_path)
    categories = [{"id": 1, "name": "cat", "isthing": 1}]
    description = {"step": 1, "input_type": "image_tensor", "preprocessing": {}, "batch_size": None}
    (tmp_path / "assets" / ASSET).write_text(json.dumps({"categories": categories, **description}))
    (data,) = (tmp_path / "variables").glob("*.data*")
    data.write_bytes(b"")
    with pytest.raises(DataError, match=f"{tmp_path} cannot be loaded: .* Export the model again"):
        ExportedModel(tmp_path)


def test_an_output_that_cannot_be_written_is_found_before_the_export(tmp_path: Path) -> None:
    from panoptic_cli.export.output import check_file, check_folder

    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for check in (check_file, check_folder):
        with pytest.raises(DataError, match=f"{tmp_path}/file/model cannot be written"):
            check(f"{tmp_path}/file/model")
    check_folder(f"{tmp_path}/empty")
    check_file(f"{tmp_path}/new/model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


@pytest.mark.usefixtures("harmless_sigterm")
def test_sigterm_leaves_no_partial_model(tmp_path: Path) -> None:
    from panoptic_cli.export.output import whole

    def stopped() -> None:
        with whole(str(tmp_path / "exported")) as partial:
            partial.mkdir()
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_options_that_the_saved_model_determines_are_refused(
    shapes_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(find_pictures([str(shapes_dir / "val2017")])[0])
    assert run(["predict", picture, "--saved-model", str(tmp_path), "--precision", "float16"]) == 2
    assert "--saved-model" in capsys.readouterr().err
