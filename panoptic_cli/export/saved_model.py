"""SavedModels that contain preprocessing, network and fusion, and run without this package."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from panoptic_cli import storage
from panoptic_cli.export.description import describe_model
from panoptic_cli.export.output import check_folder, whole
from panoptic_cli.export.served_model import ServedModel, served_outputs
from panoptic_cli.files import write_json
from panoptic_cli.inference.predictor import LoadedModel

ASSET = "panoptic.json"
_CONTENTS = "preprocessing, network, fusion of things and stuff, COCO panoptic PNGs"
_ORIENTATION = {
    "image_tensor": "pictures must be upright: whoever decodes a file has to apply its EXIF orientation",
    "image_bytes": "the EXIF orientation is applied",
    "tf_example": "records contain pictures as they were annotated: an EXIF orientation in them is not applied",
}


def export_saved_model(
    model: LoadedModel, output: str | Path, *, input_type: str = "image_tensor", batch_size: int | None = None
) -> dict[str, Any]:
    """Writes a SavedModel, completely or not at all.

    Args:
        model: the network.
        output: the folder to write, local or in a bucket. An existing SavedModel is replaced.
        input_type: image_tensor (uint8 [batch, H, W, 3]), image_bytes (JPEG or PNG strings) or tf_example.
        batch_size: pictures per call; None: any number.

    Returns:
        The description, which is also the asset assets/panoptic.json, with the path of the model as "saved_model". See
        `ServedModel` for the signatures.

    Raises:
        DataError: the output folder contains something else.
        RunError: the model cannot be written.
    """
    output = storage.normalize(output)
    check_folder(output)
    description = describe_model(
        model,
        file_format="saved_model",
        outputs=served_outputs(model),
        input_type=input_type,
        batch_size=batch_size,
        contents=f"{_CONTENTS}; {_ORIENTATION[input_type]}",
    )
    served = ServedModel(model, input_type, batch_size, description)
    with whole(output) as partial, tempfile.TemporaryDirectory() as folder:
        # As an asset, the description is part of the SavedModel and travels with it.
        asset = Path(folder) / ASSET
        write_json(asset, description)
        served.description = tf.saved_model.Asset(str(asset))
        tf.saved_model.save(served, str(partial), signatures=served.functions())
    return {"saved_model": output, **description}
