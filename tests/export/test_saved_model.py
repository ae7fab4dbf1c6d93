"""SavedModels, run by a Python that has neither this package nor Keras."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.datasets import records
from panoptic_cli.errors import DataError, RunError
from panoptic_cli.export.saved_model import OUTPUTS, export_saved_model
from panoptic_cli.inference import LoadedModel, PicturePrediction, Predictor

# Loads each SavedModel, runs it on its inputs and writes all outputs.
_SERVER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("panoptic_cli", "commands", "keras", "tf_keras"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

import numpy as np
import tensorflow as tf

# TensorFlow imports Keras where it is installed: from here on there is none.
for name in [name for name in sys.modules if name.partition(".")[0] == "keras"]:
    del sys.modules[name]
sys.meta_path.insert(0, Blocker())
inputs = np.load("inputs.npz", allow_pickle=True)
for name in inputs.files:
    model = tf.saved_model.load(name.partition(":")[0])
    given = inputs[name]
    tensor = tf.constant(given.tolist() if given.dtype == object else given)
    outputs = model.signatures["serving_default"](tensor)
    np.savez(f"{name.replace(':', '-')}.npz", **{key: value.numpy() for key, value in outputs.items()})
assert not {"panoptic_cli", "keras"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def pictures(shapes_dir: Path) -> list[Path]:
    """Two pictures of different sizes, both larger than the network's input."""
    return sorted((shapes_dir / "val2017").glob("*.jpg"))[:2]


@pytest.fixture(scope="module")
def predicted(tiny_model: LoadedModel, tiny_predictor: Predictor, pictures: list[Path]) -> list[PicturePrediction]:
    """What `panoptic predict` computes for them; see panoptic_cli.prediction."""
    from panoptic_cli.datasets.preprocessing import preprocess
    from panoptic_cli.pictures import read_picture

    found = []
    for path in pictures:
        image, info = preprocess(tf.constant(read_picture(path)), tiny_model.input_size)
        found.append(next(tiny_predictor(image[None], info[None])))
    return found


@pytest.fixture(scope="module")
def served(tiny_model: LoadedModel, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SavedModels for two input types, and what they gave in another process."""
    from panoptic_cli.pictures import read_picture

    folder = tmp_path_factory.mktemp("served")
    encoded = [path.read_bytes() for path in pictures]
    # One picture a call for tensors, whose sizes differ; then a batch of two of one size.
    inputs: dict[str, np.ndarray] = {
        f"image_tensor:{place}": read_picture(path)[None] for place, path in enumerate(pictures)
    }
    inputs["image_tensor:both"] = np.repeat(read_picture(pictures[0])[None], 2, axis=0)
    inputs["image_bytes:both"] = np.array(encoded, object)
    np.savez(folder / "inputs.npz", **inputs)
    for input_type in ("image_tensor", "image_bytes"):
        export_saved_model(tiny_model, folder / input_type, input_type=input_type)
    process = subprocess.run(
        [sys.executable, "-I", "-c", _SERVER], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    return folder


def check_against(outputs: dict[str, np.ndarray], place: int, expected: PicturePrediction) -> None:
    """The panoptic maps are the same in every pixel; float outputs to the last bits."""
    height, width = expected.category_map.shape
    assert outputs["image_sizes"][place].tolist() == [height, width]
    for name, wanted in (("category", expected.category_map), ("instance", expected.instance_map)):
        given = outputs[f"panoptic_{name}_map"][place]
        np.testing.assert_array_equal(given[:height, :width], wanted)
        assert not given[height:].any()  # padding is void
        assert not given[:, width:].any()
    count = int(outputs["num_detections"][place])
    assert count == len(expected.scores)
    np.testing.assert_array_equal(outputs["detection_category_ids"][place, :count], expected.category_ids)
    assert not outputs["detection_category_ids"][place, count:].any()
    assert not outputs["detection_scores"][place, count:].any()
    for name, wanted in (("boxes", expected.boxes), ("scores", expected.scores), ("masks", expected.masks)):
        np.testing.assert_allclose(outputs[f"detection_{name}"][place, :count], wanted, rtol=1e-4, atol=1e-4)


def test_the_comparison_has_something_to_compare(predicted: list[PicturePrediction]) -> None:
    assert predicted[0].category_map.shape != predicted[1].category_map.shape
    for prediction in predicted:
        assert prediction.instance_map.max() > 0
        assert len(np.unique(prediction.category_map)) > 2


@pytest.mark.parametrize("place", [0, 1])
def test_image_tensor(served: Path, predicted: list[PicturePrediction], place: int) -> None:
    outputs = dict(np.load(served / f"image_tensor-{place}.npz"))
    assert outputs.keys() == OUTPUTS.keys()
    check_against(outputs, 0, predicted[place])


def test_a_batch_of_image_tensors(served: Path, predicted: list[PicturePrediction]) -> None:
    outputs = dict(np.load(served / "image_tensor-both.npz"))
    for place in (0, 1):
        check_against(outputs, place, predicted[0])


def test_a_batch_of_encoded_pictures_of_two_sizes(served: Path, predicted: list[PicturePrediction]) -> None:
    outputs = dict(np.load(served / "image_bytes-both.npz"))
    for place in (0, 1):
        check_against(outputs, place, predicted[place])


@pytest.mark.slow
def test_a_batch_of_records(
    tiny_model: LoadedModel, predicted: list[PicturePrediction], pictures: list[Path], tmp_path: Path
) -> None:
    export_saved_model(tiny_model, tmp_path / "model", input_type="tf_example", batch_size=2)
    examples = [records.encode_example({records.IMAGE_ENCODED: [path.read_bytes()]}) for path in pictures]
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    outputs = {name: value.numpy() for name, value in serve(tf.constant(examples)).items()}
    for place in (0, 1):
        check_against(outputs, place, predicted[place])


@pytest.mark.parametrize("input_type", ["image_tensor", "image_bytes"])
def test_the_asset_describes_the_model(served: Path, tiny_model: LoadedModel, input_type: str) -> None:
    described = json.loads((served / input_type / "assets" / "panoptic.json").read_text())
    assert described["input_type"] == input_type
    assert described["input_size"] == [64, 64]
    assert described["step"] == 3
    assert described["outputs"].keys() == OUTPUTS.keys()
    assert described["categories"] == tiny_model.table.to_list()
    # ImageNet's mean and deviation on the scale of the pixels.
    assert described["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert described["stddev"] == pytest.approx([58.395, 57.12, 57.375])


def test_another_folder_is_refused(tiny_model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name in ("thesis", "file"):
        with pytest.raises(DataError, match=f"{name} exists and is no SavedModel"):
            export_saved_model(tiny_model, tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_a_failed_export_leaves_everything_as_it_was(
    tiny_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: object, folder: str, **__: object) -> None:
        Path(folder).mkdir()
        (Path(folder) / "saved_model.pb").write_bytes(b"half")
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full_disk)
    with pytest.raises(RunError, match="No space left"):
        export_saved_model(tiny_model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "saved_model.pb").write_bytes(b"whole")
    with pytest.raises(RunError):
        export_saved_model(tiny_model, tmp_path / "old")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "saved_model.pb").read_bytes() == b"whole"
