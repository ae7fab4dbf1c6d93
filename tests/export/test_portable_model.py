"""TensorFlow Lite and ONNX files, run by their own interpreters and compared with TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometries import geometry_of
from panoptic_cli.commands.main import run

pytestmark = [pytest.mark.slow, pytest.mark.shared]


class Reference:
    """Two prepared pictures and the network's outputs for them."""

    def __init__(self, checkpoint: tuple[str, ...], coco100: Path) -> None:
        import tensorflow as tf

        from panoptic_cli import config
        from panoptic_cli.categories import read_categories
        from panoptic_cli.images.pictures import read_picture
        from panoptic_cli.inference.predictor import load_model
        from panoptic_cli.pipeline.preprocessing import Preprocessing

        given = dict(zip(checkpoint[:6:2], checkpoint[1:6:2], strict=True))
        experiment = config.load_experiment(given["--experiment"], settings=checkpoint[7::2])
        table = read_categories(Path(given["--categories"]))
        self.model = load_model(experiment, table, given["--checkpoint"])
        files = sorted((coco100 / "val2017").glob("*.jpg"))[:2]
        prepared = [Preprocessing(self.model.input_size).prepare(tf.constant(read_picture(path))) for path in files]
        self.images = [image[None].numpy() for image, _ in prepared]
        whole = geometry_of([[[64, 64], [64, 64], [1, 1], [0, 0]]])
        self.outputs = [
            {name: value.numpy() for name, value in self.model.network(image, whole).items()} for image in self.images
        ]

    def check(self, place: int, outputs: dict[str, Any]) -> None:
        """Checks that decisions are equal, and numbers up to the order of float32 sums.

        Measured differences are 5e-5 pixels for boxes and 2e-5 for logits.
        """
        expected = self.outputs[place]
        assert outputs.keys() == expected.keys()
        count = int(expected["num_detections"][0])
        assert count > 20
        assert int(outputs["num_detections"][0]) == count
        np.testing.assert_array_equal(outputs["detection_classes"], expected["detection_classes"])
        for name, tolerance in (("boxes", 1e-3), ("scores", 1e-4), ("masks", 1e-4)):
            found = outputs[f"detection_{name}"][:, :count]
            np.testing.assert_allclose(found, expected[f"detection_{name}"][:, :count], atol=tolerance)
        np.testing.assert_allclose(outputs["semantic_logits"], expected["semantic_logits"], atol=1e-3)
        assert not outputs["detection_scores"][:, count:].any()


@pytest.fixture(scope="module")
def reference(coco_checkpoint: tuple[str, ...], coco100: Path) -> Reference:
    return Reference(coco_checkpoint, coco100)


def export(checkpoint: tuple[str, ...], file_format: str, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", *checkpoint, "--format", file_format, "--output", str(output), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    described = json.loads(Path(f"{output}.json").read_text())
    assert printed == {**described, file_format: str(output)}
    assert (described["step"], described["averaged"], described["input_size"]) == (7, True, [64, 64])
    assert "fusion" in described["contents"]
    assert len(described["class_category_ids"]) == 81
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name, f"{output.name}.json"]


# TensorFlow has moved its interpreter to the package ai-edge-litert; the one in TensorFlow has the same code.
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_a_tflite_model_gives_the_same_outputs(
    reference: Reference, coco_checkpoint: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tensorflow as tf

    export(coco_checkpoint, "tflite", tmp_path / "model.tflite", capsys)
    interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    names = {detail["op_name"] for detail in interpreter._get_ops_details()}
    assert not any(name.startswith("Flex") or name == "CUSTOM" for name in names)
    runner = interpreter.get_signature_runner("serving_default")
    for place, image in enumerate(reference.images):
        reference.check(place, runner(images=image))


def test_an_onnx_model_gives_the_same_outputs(
    reference: Reference, coco_checkpoint: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    export(coco_checkpoint, "onnx", tmp_path / "model.onnx", capsys)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["images"]
    for place, image in enumerate(reference.images):
        values = session.run(None, {"images": image})
        names = [node.name for node in session.get_outputs()]
        reference.check(place, dict(zip(names, values, strict=True)))


def test_unsupported_operations_are_named(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from panoptic_cli.errors import RunError
    from panoptic_cli.export import portable_model

    def with_a_kernel_of_tensorflow(images: tf.Tensor, *_: object, **__: object) -> dict[str, tf.Tensor]:
        boxes = tf.reshape(images[:, :4, :8, 0], [1, 4, 2, 4])
        found = tf.image.combined_non_max_suppression(boxes, boxes[..., 0], 2, 2)
        return {"boxes": found.nmsed_boxes}

    monkeypatch.setattr(reference.model.network, "call", with_a_kernel_of_tensorflow)
    with pytest.raises(RunError, match=r"cannot be converted to tflite: .*CombinedNonMaxSuppression"):
        portable_model.export_portable(reference.model, tmp_path / "model.tflite", "tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_converter_is_named(
    coco_checkpoint: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tf2onnx" else real(name, *rest)
    )
    assert run(["export", *coco_checkpoint, "--format", "onnx", "--output", str(tmp_path / "m.onnx")]) == 2
    assert "pip install 'panoptic-cli[onnx]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_not_apply_to_the_format_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--batch-size", "2"], ["--input-type", "image_bytes"], ["--precision", "bfloat16"]):
        assert run(["export", "--checkpoint", "x", "--output", "y", "--format", "tflite", *words]) == 2
        assert "--format tflite" in capsys.readouterr().err
