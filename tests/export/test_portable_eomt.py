"""EoMT as TensorFlow Lite and ONNX files, run by their own interpreters and compared with TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import eomt_checkpoints
import numpy as np
import pytest
from panoptic_cli.commands.main import run

pytestmark = [pytest.mark.slow, pytest.mark.shared]


@pytest.fixture(scope="module", params=["tiny_gelu", "tiny_swiglu", "dinov3_gated"])
def network(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    name = str(request.param)
    eomt_checkpoints.write_checkpoint(name, tmp_path_factory.getbasetemp() / f"portable_{name}")
    return name


@pytest.fixture
def exported(network: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def export(file_format: str) -> Path:
        folder, output = tmp_path_factory.getbasetemp() / f"portable_{network}", tmp_path / f"model.{file_format}"
        words = ["--checkpoint", str(folder), "--format", file_format, "--output", str(output)]
        assert run(["export", *words]) == 0
        return output

    return export


def expected(network: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A picture and the authors' figures for it."""
    facts = eomt_checkpoints.variables(network)
    figures = np.load(eomt_checkpoints.FORWARD / network / "forward.npz")
    assert facts["noise"]
    return eomt_checkpoints.pixels(network)[:1], {
        "class_logits": figures["off_class"][:1],
        "mask_logits": figures["off_mask"][:1],
    }


def check(network: str, outputs: dict[str, np.ndarray]) -> None:
    """Compares the outputs with the figures, of which some queries and pixels are stored."""
    for name, figures in expected(network)[1].items():
        found = outputs[name]
        steps = tuple(slice(None, None, a // b) for a, b in zip(found.shape, figures.shape, strict=True))
        # Other kernels add in another order; the networks' own noise is about 1e-5 of logits of up to 20.
        np.testing.assert_allclose(found[steps], figures, atol=2e-4, err_msg=name)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_tflite(network: str, exported: Any) -> None:
    import tensorflow as tf

    output = exported("tflite")
    interpreter = tf.lite.Interpreter(str(output))
    outputs = interpreter.get_signature_runner()(images=expected(network)[0])
    check(network, outputs)
    assert len(json.loads(Path(f"{output}.json").read_text())["class_category_ids"]) == 133


def test_onnx(network: str, exported: Any) -> None:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(exported("onnx")), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    check(network, dict(zip(names, session.run(names, {"images": expected(network)[0]}), strict=True)))
