"""Loading folders in Hugging Face's layout: every spelling, every tensor accounted for, one error for what is wrong."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from eomt_checkpoints import tensor, write_folder
from PIL import Image

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.eomt import Eomt as EomtConfig
from panoptic_cli.errors import RunError

if TYPE_CHECKING:
    from panoptic_cli.models.eomt.network import Eomt

WIDTH, INNER, PATCHES = 16, 48, 16
CONFIG: dict[str, Any] = {
    "model_type": "eomt",
    "image_size": 64,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_blocks": 1,
    "num_queries": 3,
    "num_upscale_blocks": 1,
    "mlp_ratio": 4.375,  # (70 * 2 // 3 + 7) // 8 * 8 = 48 with a gate
    "use_swiglu_ffn": True,
}
TABLE = CategoryTable.from_list([{"id": 1, "name": "dot", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}], "t")


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns the tensors of the network of CONFIG as Hugging Face names them."""
    found: dict[str, tuple[int, ...]] = {
        "attn_mask_probs": (1,),
        "criterion.empty_weight": (3,),
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.register_tokens": (1, 4, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, 16, 16),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "embeddings.position_embeddings.weight": (PATCHES, WIDTH),
        "query.weight": (3, WIDTH),
        **norm("layernorm"),
        **linear("class_predictor", WIDTH, 3),
    }
    for number in range(2):
        path = f"layers.{number}"
        found |= {**norm(f"{path}.norm1"), **norm(f"{path}.norm2")}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{path}.attention.{name}", WIDTH, WIDTH)
        found |= {f"{path}.layer_scale{place}.lambda1": (WIDTH,) for place in (1, 2)}
        found |= {**linear(f"{path}.mlp.gate_proj", WIDTH, INNER), **linear(f"{path}.mlp.up_proj", WIDTH, INNER)}
        found |= linear(f"{path}.mlp.down_proj", INNER, WIDTH)
    for number in (1, 2, 3):
        found |= linear(f"mask_head.fc{number}", WIDTH, WIDTH)
    path = "upscale_block.block.0"
    found |= {f"{path}.conv1.weight": (WIDTH, WIDTH, 2, 2), f"{path}.conv1.bias": (WIDTH,)}
    return found | {f"{path}.conv2.weight": (WIDTH, 1, 3, 3)} | norm(f"{path}.layernorm2d")


def values() -> dict[str, np.ndarray]:
    return {name: tensor("test", name, shape) for name, shape in shapes().items()}


def network(**fields: Any) -> Eomt:
    from panoptic_cli.models.eomt.network import Eomt

    return Eomt(EomtConfig(**{**CONFIG, **fields}), TABLE)


def load(folder: Path, **fields: Any) -> dict[str, np.ndarray]:
    """Returns the variables of a network with a folder's weights, by their paths."""
    from panoptic_cli import weights

    loaded = network(**fields)
    result = weights.load_weights(loaded, str(folder))
    assert not result.backbone_only
    assert result.variables == len(loaded.variables)
    assert result.parameters == loaded.count_params()
    return {variable.path: np.asarray(variable) for variable in loaded.variables}


@pytest.fixture(autouse=True)
def _float32(float32_policy: None) -> None:
    """All tests of this module compute in float32."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return load(write_folder(tmp_path_factory.mktemp("whole") / "folder", CONFIG, values()))


def check_equal(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_shards_are_read_as_one_file(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    check_equal(load(write_folder(tmp_path / "f", CONFIG, values(), shards=3)), expected)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_the_folder_names_it(name: str, tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    check_equal(load(write_folder(tmp_path / "f", CONFIG, values()) / name), expected)


def joined(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors with the older spelling of the MLP: gate and up are one."""
    result: dict[str, np.ndarray] = {}
    for name, value in found.items():
        if ".mlp.gate_proj." in name:
            other = found[name.replace("gate_proj", "up_proj")]
            result[name.replace("gate_proj", "weights_in")] = np.concatenate([value, other])
        elif ".mlp.up_proj." not in name:
            result[name.replace("down_proj", "weights_out")] = value
    return result


def test_both_spellings_of_the_gated_mlp(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    check_equal(load(write_folder(tmp_path / "f", CONFIG, joined(values()))), expected)


def test_buffers_may_be_absent(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    found = {
        name: value for name, value in values().items() if name not in ("attn_mask_probs", "criterion.empty_weight")
    }
    check_equal(load(write_folder(tmp_path / "f", CONFIG, found)), expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_types_on_disk(dtype: Any, tmp_path: Path) -> None:
    rounded = {name: value.astype(dtype) for name, value in values().items()}
    again = {name: value.astype(np.float32) for name, value in rounded.items()}
    check_equal(
        load(write_folder(tmp_path / "rounded", CONFIG, rounded)), load(write_folder(tmp_path / "again", CONFIG, again))
    )


def test_positions_of_another_size_are_resized(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    folder = write_folder(tmp_path / "f", CONFIG, values())
    for size, grid in ((32, 2), (144, 9)):
        found = load(folder, image_size=size)
        table = expected["eomt/embeddings/positions"].reshape(4, 4, WIDTH)
        # Pillow resizes with the same cubic and antialiasing, in float32.
        layers = [
            Image.fromarray(layer).resize((grid, grid), Image.Resampling.BICUBIC) for layer in table.transpose(2, 0, 1)
        ]
        resized = np.stack([np.asarray(layer) for layer in layers], axis=-1).reshape(grid * grid, WIDTH)
        np.testing.assert_allclose(found.pop("eomt/embeddings/positions"), resized, rtol=0, atol=1e-5)
        check_equal(found, {path: value for path, value in expected.items() if not path.endswith("positions")})


def test_everything_that_does_not_fit_is_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    from panoptic_cli import weights

    found = values()
    del found["layers.1.norm1.weight"], found["layers.0.mlp.gate_proj.bias"]
    found["class_predictor.weight"] = np.zeros((4, WIDTH), np.float32)
    found["query.weight"] = found["query.weight"].astype(np.int32)
    found["layers.2.norm1.weight"] = np.zeros(WIDTH, np.float32)
    target = network()
    before = [np.asarray(variable) for variable in target.variables]
    with pytest.raises(RunError) as caught:
        weights.load_weights(target, str(write_folder(tmp_path / "f", CONFIG, found)))
    lines = [line.removeprefix("  - ").rstrip(".") for line in caught.value.message.splitlines()[1:]]
    assert sorted(lines) == [
        "class_predictor.weight has shape [4, 16] in the folder, not [3, 16]",
        "layers.0.mlp.gate_proj.bias is not in the folder",
        "layers.1.norm1.weight is not in the folder",
        "layers.2.norm1.weight is only in the folder",
        "query.weight is of type I32, not one of F64, F32, F16, BF16",
    ]
    assert all(np.array_equal(a, b) for a, b in zip(before, target.variables, strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 4}, "num_attention_heads is 4 there and 2 here"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05 there and 1e-06 here"),
        (
            {"model_type": "eomt_dinov3", "use_swiglu_ffn": False},
            "model_type 'eomt_dinov3', but that of the network is",
        ),
        ({"model_type": "bert"}, "'bert'"),
        ({"hidden_act": "mish"}, "hidden_act: must be"),
    ],
)
def test_a_folder_of_another_network_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", {**CONFIG, **changes}, values())
    with pytest.raises(RunError, match=re.escape(words)):
        load(folder)


def _cut(folder: Path) -> None:
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _garble(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"<html>not found</html>")


def _remove_tensor(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["more.weight"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (_cut, "00002.safetensors cannot be read as safetensors"),
    "garbled": (_garble, "00002.safetensors cannot be read as safetensors"),
    "empty": (lambda f: (f / "model-00002-of-00002.safetensors").write_bytes(b""), "cannot be read as safetensors"),
    "shard missing": (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "00002.safetensors does not exist"),
    "tensor missing": (_remove_tensor, "lists tensors that its files lack: more.weight"),
    "index damaged": (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json is damaged"),
    "index of another kind": (
        lambda f: (f / "model.safetensors.index.json").write_text("[1]"),
        "index.json is damaged",
    ),
    "no weights": (lambda f: (f / "model.safetensors.index.json").unlink(), "has neither model.safetensors nor"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config damaged": (lambda f: (f / "config.json").write_text("{"), "config.json is not valid JSON"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_clear_error(name: str, tmp_path: Path) -> None:
    damage, words = DAMAGES[name]
    folder = write_folder(tmp_path / "f", CONFIG, values(), shards=2)
    damage(folder)
    with pytest.raises(RunError, match=re.escape(words)) as caught:
        load(folder)
    assert caught.value.hint


def dinov2(patch: int, grid: int) -> dict[str, np.ndarray]:
    """Returns a backbone as facebook/dinov2-with-registers-* store it, with the numbers of `values` in its blocks."""
    found = joined(values())
    result: dict[str, np.ndarray] = {"embeddings.mask_token": np.zeros((1, WIDTH), np.float32)}
    renamed = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    for name, value in found.items():
        if name.startswith("layers."):
            for ours, theirs in {**renamed, "out_proj": "output.dense"}.items():
                name = name.replace(f"attention.{ours}", f"attention.{theirs}")
            result[name.replace("layers.", "encoder.layer.")] = value
        elif name.startswith(("embeddings.", "layernorm.")) and "position" not in name:
            result[name] = value
    kernel, positions = "embeddings.patch_embeddings.projection.weight", "embeddings.position_embeddings"
    return result | {
        kernel: tensor("dinov2", kernel, (WIDTH, 3, patch, patch)),
        positions: tensor("dinov2", positions, (1, 1 + grid**2, WIDTH)),
    }


def test_a_backbone_alone_leaves_queries_and_heads(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    from panoptic_cli import weights

    stored = dinov2(patch=14, grid=5)
    folder = write_folder(tmp_path / "f", {**CONFIG, "model_type": "dinov2_with_registers"}, stored)
    target = network()
    with pytest.raises(RunError, match="backbone alone"):
        weights.load_weights(target, str(folder))
    before = {variable.path: np.asarray(variable) for variable in target.variables}
    result = weights.initialize(target, str(folder))
    assert result.backbone_only
    found = {variable.path: np.asarray(variable) for variable in target.variables}
    resampled = {f"eomt/embeddings/{name}" for name in ("kernel", "positions", "cls_token")}
    for path, value in found.items():
        if path.startswith(("eomt/queries", "eomt/heads")):
            np.testing.assert_array_equal(value, before[path])
        elif path not in resampled:
            np.testing.assert_array_equal(value, expected[path], err_msg=path)

    table = stored["embeddings.position_embeddings"]
    np.testing.assert_array_equal(
        found["eomt/embeddings/cls_token"], stored["embeddings.cls_token"] + table[:, :1], strict=True
    )
    layer = Image.fromarray(np.ascontiguousarray(table[0, 1:, 3].reshape(5, 5)))
    resized = np.asarray(layer.resize((4, 4), Image.Resampling.BICUBIC)).reshape(-1)
    np.testing.assert_allclose(found["eomt/embeddings/positions"][:, 3], resized, rtol=0, atol=1e-5)
    # The product of the new kernel and an enlarged patch is that of the old kernel and the patch.
    patch = np.random.default_rng(1).random((14, 14), dtype=np.float32)
    enlarged = np.asarray(Image.fromarray(patch).resize((16, 16), Image.Resampling.BICUBIC))
    old = np.einsum("oyx,yx->o", stored["embeddings.patch_embeddings.projection.weight"][:, 1], patch)
    new = np.einsum("yxo,yx->o", found["eomt/embeddings/kernel"][:, :, 1], enlarged)
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-4)


def test_a_backbone_of_the_same_sizes_is_not_resampled(tmp_path: Path) -> None:
    from panoptic_cli import weights

    stored = dinov2(patch=16, grid=4)
    target = network()
    folder = write_folder(tmp_path / "f", {**CONFIG, "model_type": "dinov2_with_registers"}, stored)
    weights.initialize(target, str(folder))
    np.testing.assert_array_equal(target.embeddings.positions, stored["embeddings.position_embeddings"][0, 1:])
    kernel = stored["embeddings.patch_embeddings.projection.weight"]
    np.testing.assert_array_equal(target.embeddings.kernel, kernel.transpose(2, 3, 1, 0))


def test_positions_that_are_no_square_are_an_error(tmp_path: Path) -> None:
    found = values()
    found["embeddings.position_embeddings.weight"] = np.zeros((12, WIDTH), np.float32)
    with pytest.raises(RunError, match="12 positions are not a square grid"):
        load(write_folder(tmp_path / "f", CONFIG, found))


def test_one_variable_at_a_time_is_in_memory(tmp_path: Path) -> None:
    from panoptic_cli import weights

    wide = {**CONFIG, "hidden_size": 128, "num_hidden_layers": 8, "use_swiglu_ffn": False}
    target = network(**wide)
    known = {"embeddings.position_embeddings.weight": PATCHES, "embeddings.patch_embeddings.projection.weight": 16}
    tensors = {
        name: np.zeros([known[name] if side is None else side for side in shape], np.float32)
        for _, forms in target.hugging_face_variables(wide, "test").variables
        for name, shape in forms[0].tensors
    }
    folder = write_folder(tmp_path / "f", wide, tensors)
    total = sum(value.nbytes for value in tensors.values())
    del tensors
    weights.load_weights(target, str(folder))  # imports modules, which count as memory
    tracemalloc.start()
    weights.load_weights(target, str(folder))
    variables, peak = tracemalloc.get_traced_memory()  # the variables take over the arrays
    tracemalloc.stop()
    assert peak - variables < 0.2 * total, (peak, variables, total)


def test_our_own_checkpoints_bring_every_variable_back(tmp_path: Path) -> None:
    import keras

    from panoptic_cli import weights
    from panoptic_cli.weights.checkpoints import Checkpoints

    class Training(keras.Model):
        def __init__(self, network: Eomt) -> None:
            super().__init__()
            self.network = network
            self.averages: list[keras.Variable] = []

    saved, again = network(), network()
    optimizer = keras.optimizers.SGD()
    optimizer.build(saved.trainable_variables)
    Checkpoints(str(tmp_path), Training(saved), optimizer).save(5)
    assert weights.load_weights(again, str(tmp_path)).step == 5
    for ours, theirs in zip(saved.variables, again.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_the_model_garden_is_not_mistaken_for_such_a_folder(tmp_path: Path) -> None:
    from panoptic_cli.config.hugging_face import find_folder

    (tmp_path / "config.json").write_text('{"other": 1}')
    assert find_folder(str(tmp_path)) is None
    assert find_folder(str(tmp_path / "absent")) is None
    assert find_folder(str(tmp_path / "absent" / "model.safetensors")) is None
    (tmp_path / "config.json").write_text('{"model_type": "eomt"}')
    assert find_folder(str(tmp_path)) == str(tmp_path)
