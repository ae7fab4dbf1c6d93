"""SavedModels, run in a Python without this package and Keras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from bare_python import serve, without_the_package
from decided_pixels import decided_in_picture
from PIL import ExifTags, Image

from panoptic_cli.errors import DataError, RunError
from panoptic_cli.export.saved_model import export_saved_model
from panoptic_cli.export.served_model import COMPACT, OUTPUTS
from panoptic_cli.inference.predictor import LoadedModel, Predictor
from panoptic_cli.locks import folder_lock
from panoptic_cli.records import schema
from panoptic_cli.results.prediction import Prediction


@pytest.fixture(scope="module")
def pictures(shapes_dir: Path) -> list[Path]:
    """Two pictures of different sizes, both larger than the network's input."""
    return sorted((shapes_dir / "val2017").glob("*.jpg"))[:2]


@pytest.fixture(scope="module")
def turned(pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the pictures as a phone stores it that lies on its side."""
    path = tmp_path_factory.mktemp("turned") / "turned.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(pictures[1]) as upright:
        upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    return path


@pytest.fixture(scope="module")
def predicted(tiny_predictor: Predictor, pictures: list[Path]) -> list[Prediction]:
    """What `panoptic predict` computes for these pictures; see panoptic_cli.inference.pictures."""
    from panoptic_cli.images.pictures import read_picture

    return [tiny_predictor.predict(read_picture(path)) for path in pictures]


@pytest.fixture(scope="module")
def decided(tiny_predictor: Predictor, pictures: list[Path]) -> list[np.ndarray]:
    """The pixels of these pictures whose segment does not depend on rounding: nearly all."""
    from panoptic_cli.images.pictures import read_picture

    return [decided_in_picture(tiny_predictor, read_picture(path)) for path in pictures]


@pytest.fixture(scope="module")
def served(
    tiny_model: LoadedModel, pictures: list[Path], turned: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with SavedModels for two input types, and their outputs from another process."""
    from panoptic_cli.images.pictures import read_picture

    folder = tmp_path_factory.mktemp("served")
    encoded = [path.read_bytes() for path in pictures]
    # Tensors need one picture per call, because sizes differ, or a batch of two pictures of the same size.
    inputs: dict[str, Any] = {f"image_tensor:{place}": read_picture(path)[None] for place, path in enumerate(pictures)}
    inputs["image_tensor:both"] = np.repeat(read_picture(pictures[0])[None], 2, axis=0)
    inputs["image_bytes:both"] = np.array(encoded, object)
    inputs["image_bytes:turned"] = np.array([turned.read_bytes()], object)
    np.savez(folder / "inputs.npz", **inputs)
    for input_type in ("image_tensor", "image_bytes"):
        export_saved_model(tiny_model, folder / input_type, input_type=input_type)
    process = serve(folder, without_the_package(folder / "packages"))
    assert process.returncode == 0, process.stderr
    return folder


def run_pixels(counts: np.ndarray) -> np.ndarray:
    """Decodes COCO's run lengths to bool [pixels], column by column."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def check_against(outputs: dict[str, np.ndarray], place: int, expected: Prediction, decided: np.ndarray) -> None:
    """Checks that the panoptic maps are the same in all decided pixels, and float outputs up to their last bits."""
    height, width = expected.category_map.shape
    assert outputs["image_sizes"][place].tolist() == [height, width]
    for name, expected_map in (("category", expected.category_map), ("instance", expected.instance_map)):
        given = outputs[f"panoptic_{name}_map"][place]
        np.testing.assert_array_equal(given[:height, :width][decided], expected_map[decided], err_msg=name)
        assert not given[height:].any()  # padding is void
        assert not given[:, width:].any()
    count = int(outputs["num_detections"][place])
    detections = expected.detections
    assert count == len(detections.scores)
    np.testing.assert_array_equal(outputs["detection_category_ids"][place, :count], detections.category_ids)
    assert not outputs["detection_category_ids"][place, count:].any()
    assert not outputs["detection_scores"][place, count:].any()
    counts = outputs["detection_mask_counts"][place]
    assert (counts[:count].sum(axis=1) == height * width).all()
    assert not counts[count:].any()
    # The last bits of a box may decide a pixel at the threshold.
    differing = [
        int((run_pixels(given) != run_pixels(mask)).sum())
        for given, mask in zip(counts[:count], detections.masks, strict=True)
    ]
    assert max(differing) <= 2
    for name, values in (("boxes", detections.boxes), ("scores", detections.scores)):
        np.testing.assert_allclose(outputs[f"detection_{name}"][place, :count], values, rtol=1e-4, atol=1e-4)


def test_predictions_contain_things_and_several_categories(predicted: list[Prediction]) -> None:
    assert predicted[0].category_map.shape != predicted[1].category_map.shape
    for prediction in predicted:
        assert prediction.instance_map.max() > 0
        assert len(np.unique(prediction.category_map)) > 2


@pytest.mark.parametrize("place", [0, 1])
def test_a_single_image_tensor(
    served: Path, predicted: list[Prediction], decided: list[np.ndarray], place: int
) -> None:
    outputs = dict(np.load(served / f"image_tensor-{place}.npz", allow_pickle=True))
    assert outputs.keys() == OUTPUTS.keys()
    check_against(outputs, 0, predicted[place], decided[place])


def test_a_batch_of_image_tensors(served: Path, predicted: list[Prediction], decided: list[np.ndarray]) -> None:
    outputs = dict(np.load(served / "image_tensor-both.npz", allow_pickle=True))
    for place in (0, 1):
        check_against(outputs, place, predicted[0], decided[0])


def test_a_batch_of_encoded_pictures_of_two_sizes(
    served: Path, predicted: list[Prediction], decided: list[np.ndarray]
) -> None:
    outputs = dict(np.load(served / "image_bytes-both.npz", allow_pickle=True))
    for place in (0, 1):
        check_against(outputs, place, predicted[place], decided[place])


def test_the_orientation_of_encoded_pictures_is_applied(
    served: Path, tiny_predictor: Predictor, pictures: list[Path], turned: Path
) -> None:
    from panoptic_cli.images.pictures import read_picture

    pixels = read_picture(turned)
    assert pixels.shape == read_picture(pictures[1]).shape
    outputs = dict(np.load(served / "image_bytes-turned.npz", allow_pickle=True))
    check_against(outputs, 0, tiny_predictor.predict(pixels), decided_in_picture(tiny_predictor, pixels))


@pytest.mark.slow
def test_a_batch_of_records(
    tiny_model: LoadedModel,
    predicted: list[Prediction],
    decided: list[np.ndarray],
    pictures: list[Path],
    tmp_path: Path,
) -> None:
    export_saved_model(tiny_model, tmp_path / "model", input_type="tf_example", batch_size=2)
    examples = [schema.encode_example({schema.IMAGE_ENCODED: [path.read_bytes()]}) for path in pictures]
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    outputs = {name: value.numpy() for name, value in serve(tf.constant(examples)).items()}
    for place in (0, 1):
        check_against(outputs, place, predicted[place], decided[place])


@pytest.mark.parametrize("input_type", ["image_tensor", "image_bytes"])
def test_the_asset_describes_the_model(served: Path, tiny_model: LoadedModel, input_type: str) -> None:
    described = json.loads((served / input_type / "assets" / "panoptic.json").read_text())
    assert described["input_type"] == input_type
    assert described["input_size"] == [64, 64]
    assert described["step"] == 3
    assert described["outputs"].keys() == OUTPUTS.keys()
    assert described["categories"] == tiny_model.table.to_list()
    # ImageNet's mean and standard deviation, on the scale of the pixels.
    assert described["averaged"] is False
    described |= described["preprocessing"]
    assert described["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert described["stddev"] == pytest.approx([58.395, 57.12, 57.375])


def test_outputs_are_as_documented(served: Path) -> None:
    model = tf.saved_model.load(str(served / "image_tensor"))
    found = model.signatures["serving_default"].structured_outputs
    assert found.keys() == OUTPUTS.keys()
    for name, output in OUTPUTS.items():
        assert found[name].dtype.name == output.dtype, name
        assert len(found[name].shape) == len(output.shape), name
        for size, documented in zip(found[name].shape, output.shape, strict=True):
            assert size == documented or isinstance(documented, str), name


def test_the_signatures_compact_and_metadata(
    served: Path, predicted: list[Prediction], pictures: list[Path], tiny_model: LoadedModel, decided: list[np.ndarray]
) -> None:
    model = tf.saved_model.load(str(served / "image_bytes"))
    outputs = model.signatures["compact"](tf.constant([path.read_bytes() for path in pictures]))
    assert set(outputs) == set(COMPACT)
    for place, expected in enumerate(predicted):
        ids = tf.io.decode_png(outputs["panoptic_png_bytes"][place]).numpy()[..., 0]
        sure = decided[place]
        np.testing.assert_array_equal(ids[sure], expected.segment_map[sure])
        assert int(outputs["num_segments"][place]) == len(expected.segments)
    # Responses for HTTP stay small: smaller than the maps of these two pictures.
    small = sum(value.numpy().nbytes for name, value in outputs.items() if name != "panoptic_png_bytes")
    assert small < sum(prediction.category_map.nbytes for prediction in predicted)

    values = model.signatures["metadata"](tf.constant(["categories", "step", "nothing"]))["values"].numpy()
    assert [json.loads(value) for value in values] == [tiny_model.table.to_list(), 3, None]


def test_the_signature_above_score_applies_its_threshold(
    served: Path, predicted: list[Prediction], pictures: list[Path]
) -> None:
    model = tf.saved_model.load(str(served / "image_bytes"))
    inputs = tf.constant([path.read_bytes() for path in pictures])
    none = model.signatures["above_score"](image_bytes=inputs, score_threshold=tf.constant(1.0))
    assert not np.any(none["panoptic_instance_map"])
    assert int(tf.reduce_max(none["num_detections"])) > 0  # detections are listed whatever the threshold
    for place, expected in enumerate(predicted):
        np.testing.assert_array_equal(none["num_detections"][place], len(expected.detections.scores))


def test_export_to_a_bucket(tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses TensorFlow's file system in memory, which is used in the same way as gs://."""
    output = "ram://bucket/models/1"
    gfile = tf.io.gfile
    gfile.makedirs("ram://bucket/thesis")
    with gfile.GFile("ram://bucket/thesis/chapter.txt", "w") as stream:
        stream.write("years of work")
    with pytest.raises(DataError, match="ram://bucket/thesis exists and is not a SavedModel"):
        export_saved_model(tiny_model, "ram://bucket/thesis")

    monkeypatch.setattr(tf.saved_model, "save", small_saved_model)  # the content does not matter here
    written = export_saved_model(tiny_model, Path(output))  # a Path turns ram:// into ram:/
    assert written["saved_model"] == output
    loaded = tf.saved_model.load(output)
    assert loaded.signatures["double"](tf.constant(3.0))["x"] == 6.0
    with gfile.GFile(f"{output}/old.txt", "w") as stream:
        stream.write("of the model that is replaced")

    order = []
    copy = gfile.copy

    def recorded(source: str, target: str, overwrite: bool = False) -> None:
        order.append(target)
        copy(source, target, overwrite)

    monkeypatch.setattr(gfile, "copy", recorded)
    export_saved_model(tiny_model, output)
    assert order[-1] == f"{output}/saved_model.pb"  # without it, the other files are not a SavedModel
    assert not gfile.exists(f"{output}/old.txt")

    def full(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "quota")

    monkeypatch.setattr(gfile, "copy", full)
    with pytest.raises(RunError, match=r"ram://bucket/models/2 cannot be written: quota\..*panoptic upload"):
        export_saved_model(tiny_model, "ram://bucket/models/2")
    assert not gfile.exists("ram://bucket/models/2/saved_model.pb")


_SAVE = tf.saved_model.save


def small_saved_model(_: object, folder: str, **__: object) -> None:
    module = tf.Module()
    module.double = tf.function(lambda x: {"x": 2.0 * x}, input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    _SAVE(module, folder, signatures={"double": module.double})


def test_files_that_are_not_a_saved_model_are_not_replaced(tiny_model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name in ("thesis", "file"):
        with pytest.raises(DataError, match=f"{name} exists and is not a SavedModel"):
            export_saved_model(tiny_model, tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_a_failed_export_changes_nothing(
    tiny_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: object, folder: str, **__: object) -> None:
        Path(folder).mkdir()
        (Path(folder) / "saved_model.pb").write_bytes(b"half")
        name = f"{{{{function_node __wrapped__SaveV2_dtypes_214_device_/{'job:localhost/' * 20}}}}} "
        raise tf.errors.ResourceExhaustedError(None, None, f"{name}{folder}; No space left on device [Op:SaveV2]")

    monkeypatch.setattr(tf.saved_model, "save", full_disk)
    with pytest.raises(RunError, match=r"cannot be written: /.*; No space left on device\."):
        export_saved_model(tiny_model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "saved_model.pb").write_bytes(b"whole")
    with pytest.raises(RunError):
        export_saved_model(tiny_model, tmp_path / "old")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "saved_model.pb").read_bytes() == b"whole"


def test_what_a_killed_export_left_is_removed(
    tiny_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.saved_model, "save", small_saved_model)
    left = tmp_path / ".exported.partial" / "new"
    left.mkdir(parents=True)
    (left / "saved_model.pb").write_bytes(b"half")
    with (
        folder_lock(left.parent, "panoptic export", "wait"),
        pytest.raises(RunError, match=r"Another panoptic export is writing .*exported\."),
    ):
        export_saved_model(tiny_model, tmp_path / "exported")
    assert (left / "saved_model.pb").exists()
    export_saved_model(tiny_model, tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
    assert (tmp_path / "exported" / "saved_model.pb").read_bytes() != b"half"
