"""EoMT checkpoints in Hugging Face's layout, with weights that are made from the names of their tensors.

The shared folder has figures that the original computes with the same weights; its README has the rules.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.hugging_face import described_network, read_config

if TYPE_CHECKING:
    from panoptic_cli.models.eomt.network import Eomt

FORWARD = Path(__file__).resolve().parents[3] / "shared" / "conformance" / "eomt" / "forward"


def variables(name: str) -> dict[str, Any]:
    """Returns the content of a network's variables.json: salt, shapes, checksums, noise and so on."""
    return dict(json.loads((FORWARD / name / "variables.json").read_text()))


def generator(salt: str, name: str) -> np.random.Generator:
    """Returns the generator of a name's random numbers."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{salt}:{name}".encode())))


def tensor(salt: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the value of a tensor, float32."""
    if name == "attn_mask_probs":
        return np.ones(shape, np.float32)
    if name == "criterion.empty_weight":
        return np.concatenate([np.ones(shape[0] - 1), [0.1]]).astype(np.float32)
    random = generator(salt, name).standard_normal(shape, dtype=np.float32)
    if name.endswith(".bias"):
        return np.float32(0.1) * random
    if re.search(r"\b(norm1|norm2|layernorm|layernorm2d)\.weight$", name):
        return np.float32(1) + np.float32(0.1) * random
    if name.endswith("lambda1"):
        return np.float32(0.5) + np.float32(0.05) * random
    if re.search(r"(cls_token|register_tokens|position_embeddings\.weight)$", name):
        return np.float32(0.5) * random
    if name == "query.weight":
        return random
    transposed = re.fullmatch(r"upscale_block\.block\.\d+\.conv1\.weight", name)
    fan_in = shape[0] if transposed else math.prod(shape[1:])
    gain = 1.5 if re.search(r"\b[qk]_proj\.", name) else 4.0 if name.startswith("class_predictor") else 1.0
    return random * np.float32(gain / math.sqrt(fan_in))


def tensors(name: str) -> dict[str, np.ndarray]:
    """Returns all tensors of a network of the shared folder, and checks them against its checksums."""
    facts = variables(name)
    found = {key: tensor(facts["salt"], key, tuple(shape)) for key, shape in facts["shapes"].items()}
    wrong = [key for key, value in found.items() if zlib.crc32(value.tobytes()) != int(facts["crc32"][key])]
    assert not wrong, wrong
    return found


def pixels(name: str) -> np.ndarray:
    """Returns the normalised pictures of a network's figures, float32 [batch, height, width, 3]."""
    facts = variables(name)
    shape = tuple(facts["pixel_values"])
    return generator(facts["salt"], "pixel_values").standard_normal(shape, dtype=np.float32).transpose(0, 2, 3, 1)


def write_folder(folder: Path, config: Mapping[str, Any], values: Mapping[str, np.ndarray], shards: int = 1) -> Path:
    """Writes a folder in Hugging Face's layout.

    Args:
        folder: created.
        config: the content of config.json.
        values: the tensors.
        shards: number of safetensors files.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    values = {name: np.ascontiguousarray(value) for name, value in values.items()}
    if shards == 1:
        save_file(values, folder / "model.safetensors", {"format": "pt"})
        return folder
    places: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: values[name] for name in list(values)[number::shards]}
        save_file(part, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(value.nbytes for value in values.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_checkpoint(name: str, folder: Path, shards: int = 1) -> Path:
    """Writes the checkpoint of a network of the shared folder, such as tiny_gelu or small, and returns its folder."""
    config = json.loads((FORWARD / name / "config.json").read_text())
    return write_folder(folder, config, tensors(name), shards)


def load_network(folder: Path, table: CategoryTable) -> Eomt:
    """Returns the network of a folder, with its weights."""
    from panoptic_cli import weights
    from panoptic_cli.models.eomt.network import Eomt

    config = read_config(str(folder))
    assert config is not None
    network = Eomt(described_network(config, str(folder)).model, table)
    weights.load_weights(network, str(folder))
    return network
