"""evaluate, predict and exported models give exactly the same panoptic maps for real pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import eomt_checkpoints
import numpy as np
import pytest
from bare_python import serve, without_the_package
from panoptic_cli.commands.main import run
from PIL import Image

from panoptic_cli.images import panoptic_png

pytestmark = [pytest.mark.slow, pytest.mark.shared]
_INPUT_TYPES = ("image_tensor", "image_bytes", "tf_example")


class TenPictures(NamedTuple):
    """Ten pictures as files and as records; the last one is larger than 1024 pixels."""

    files: list[Path]
    records: Path
    data: Path


@pytest.fixture(scope="module")
def ten(coco100: Path, tmp_path_factory: pytest.TempPathFactory) -> TenPictures:
    from panoptic_cli.coco.layout import coco_files
    from panoptic_cli.records.conversion import convert_all
    from panoptic_cli.records.plans import ConversionPlan

    data = tmp_path_factory.mktemp("ten")
    theirs, ours = coco_files(coco100, "val"), coco_files(data, "val")
    for folder in (ours.image_dir, ours.panoptic_masks, ours.panoptic_annotations.parent):
        folder.mkdir(parents=True)
    content = json.loads(theirs.panoptic_annotations.read_text())
    content["images"] = content["images"][:10]
    by_id = {annotation["image_id"]: annotation for annotation in content["annotations"]}
    content["annotations"] = [by_id[image["id"]] for image in content["images"]]
    for place, (image, annotation) in enumerate(zip(content["images"], content["annotations"], strict=True)):
        picture = Image.open(theirs.image_dir / image["file_name"])
        mask = Image.open(theirs.panoptic_masks / annotation["file_name"])
        if place < 9:
            (ours.image_dir / image["file_name"]).write_bytes((theirs.image_dir / image["file_name"]).read_bytes())
            mask.save(ours.panoptic_masks / annotation["file_name"])
            continue
        size = (picture.width * 2 + 101, picture.height * 3)
        assert max(size) > 1024
        image |= {"width": size[0], "height": size[1]}
        picture.resize(size).save(ours.image_dir / image["file_name"])
        large = mask.resize(size, Image.Resampling.NEAREST)
        large.save(ours.panoptic_masks / annotation["file_name"])
        ids, areas = np.unique(panoptic_png.rgb_to_ids(np.asarray(large)), return_counts=True)
        area = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        annotation["segments_info"] = [
            s | {"area": area[s["id"]]} for s in annotation["segments_info"] if s["id"] in area
        ]
        for segment in annotation["segments_info"]:
            del segment["bbox"]
    ours.panoptic_annotations.write_text(json.dumps(content))
    records = data / "tfrecords"
    plan = ConversionPlan(dataclasses.replace(ours, object_annotations=None), records, 1)
    convert_all([plan], workers=1)
    return TenPictures([ours.image_dir / image["file_name"] for image in content["images"]], records, data)


@pytest.fixture(scope="module", params=["panoptic_fpn", "eomt"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(
    family: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, ...]:
    """Options that name a checkpoint with random weights, whose maps have things and stuff."""
    if family == "panoptic_fpn":
        return tuple(request.getfixturevalue("coco_checkpoint"))
    folder = eomt_checkpoints.write_checkpoint("tiny_gelu", tmp_path_factory.mktemp("eomt") / "tiny")
    thresholds = ("threshold=0.1", "overlap_mask_area_threshold=0.02")
    words = [word for text in thresholds for word in ("--set", f"task.model.eomt.{text}")]
    return "--checkpoint", str(folder), *words


def read(folder: Path) -> dict[str, tuple[np.ndarray, list[dict[str, Any]]]]:
    """Reads {stem: (segment ids, segments_info)} from a folder with pred.json and pred/."""
    annotations = json.loads((folder / "pred.json").read_text())["annotations"]
    return {
        Path(a["file_name"]).stem: (
            panoptic_png.rgb_to_ids(np.asarray(Image.open(folder / "pred" / a["file_name"]))),
            a["segments_info"],
        )
        for a in annotations
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, (ids, segments) in one.items():
        np.testing.assert_array_equal(ids, other[name][0])
        assert segments == other[name][1]


@pytest.fixture(scope="module")
def predicted(checkpoint: tuple[str, ...], ten: TenPictures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("predicted") / "out"
    assert run(["predict", *map(str, ten.files), *checkpoint, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def exported(checkpoint: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a SavedModel for each input type, and the output of export."""
    folder = tmp_path_factory.mktemp("exported")
    with (folder / "printed.txt").open("w") as stream, contextlib.redirect_stdout(stream):
        for input_type in _INPUT_TYPES:
            words = ["--input-type", input_type, "--output", str(folder / input_type)]
            assert run(["export", *checkpoint, *words]) == 0
    return folder


def test_predictions_contain_things_and_several_categories(family: str, predicted: Path) -> None:
    predictions = read(predicted)
    assert len(predictions) == 10
    things = {c["id"] for c in json.loads((predicted / "pred.json").read_text())["categories"] if c["isthing"]}
    assert sum(s["category_id"] in things for _, segments in predictions.values() for s in segments) > (
        50 if family == "panoptic_fpn" else 9
    )
    assert max(ids.shape[1] for ids, _ in predictions.values()) > 1024
    least = 5 if family == "panoptic_fpn" else 1
    for ids, segments in predictions.values():
        assert len(segments) > least
        assert (ids > 0).mean() > 0.5
        assert len({segment["category_id"] for segment in segments}) > least // 2


def test_evaluate_and_predict_give_the_same_maps(
    checkpoint: tuple[str, ...], ten: TenPictures, predicted: Path, tmp_path: Path
) -> None:
    words = ["--eval-data", f"{ten.records}/val-*", "--output", str(tmp_path / "out")]
    assert run(["evaluate", *checkpoint, *words]) == 0
    same(read(tmp_path / "out"), read(predicted))


def test_exported_models_give_the_same_maps_without_the_package(
    exported: Path, family: str, ten: TenPictures, predicted: Path
) -> None:
    from panoptic_cli.images.pictures import read_picture
    from panoptic_cli.records import schema

    inputs: dict[str, Any] = {}
    for path in ten.files:
        content = path.read_bytes()
        inputs[f"image_tensor:{path.stem}"] = read_picture(path, accurate_jpeg=family == "eomt")[None]
        inputs[f"image_bytes:{path.stem}"] = np.array([content], object)
        inputs[f"tf_example:{path.stem}"] = np.array([schema.encode_example({schema.IMAGE_ENCODED: [content]})], object)
    np.savez(exported / "inputs.npz", **inputs)
    process = serve(exported, without_the_package(exported / "packages"))
    assert process.returncode == 0, process.stderr
    for input_type in _INPUT_TYPES:
        served = {}
        for path in ten.files:
            with np.load(exported / f"{input_type}-{path.stem}.npz", allow_pickle=True) as archive:
                outputs = {name: archive[name][0] for name in archive.files}
            served[path.stem] = from_outputs(outputs)
            check_maps(outputs, *served[path.stem])
        same(served, read(predicted))


def from_outputs(outputs: dict[str, Any]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Reads COCO's PNG and segments_info from a response, as a client does."""
    ids = panoptic_png.rgb_to_ids(np.asarray(Image.open(io.BytesIO(outputs["panoptic_png_bytes"]))))
    columns = ("segment_ids", "segment_category_ids", "segment_areas", "segment_boxes")
    rows = zip(*(outputs[name][: int(outputs["num_segments"])].tolist() for name in columns), strict=True)
    names = ("id", "category_id", "area", "bbox")
    return ids, [{**dict(zip(names, row, strict=True)), "iscrowd": 0} for row in rows]


def check_maps(outputs: dict[str, np.ndarray], ids: np.ndarray, segments: list[dict[str, Any]]) -> None:
    """Checks that the maps contain the segments of the PNG, and that each thing refers to its detection."""
    category, instance = outputs["panoptic_category_map"], outputs["panoptic_instance_map"]
    assert category.shape == ids.shape == tuple(outputs["image_sizes"])
    assert not category[ids == 0].any()
    for segment, place in zip(segments, outputs["segment_detections"], strict=False):
        here = ids == segment["id"]
        assert (category[here] == segment["category_id"]).all()
        assert (instance[here] == place).all()
        if place:
            assert outputs["detection_category_ids"][place - 1] == segment["category_id"]


def test_the_description_and_the_output_name_the_weights(family: str, exported: Path) -> None:
    if family == "eomt":
        pytest.skip("a folder in Hugging Face's layout names no step")
    described = json.loads((exported / "image_tensor" / "assets" / "panoptic.json").read_text())
    assert (described["step"], described["averaged"]) == (7, True)
    assert (exported / "printed.txt").read_text().count("averaged weights (EMA) of step 7") == len(_INPUT_TYPES)


@pytest.mark.usefixtures("restored_policy")
def test_half_precision_is_the_same_everywhere_and_takes_half_of_the_space(
    family: str, exported: Path, checkpoint: tuple[str, ...], ten: TenPictures, tmp_path: Path
) -> None:
    if family == "panoptic_fpn":
        pytest.skip("its variables stay float32")
    half = ["--precision", "bfloat16"]
    assert run(["export", *checkpoint, *half, "--output", str(tmp_path / "model")]) == 0
    pictures = [*map(str, ten.files[-4:])]
    assert run(["predict", *pictures, *checkpoint, *half, "--output", str(tmp_path / "one")]) == 0
    assert run(["predict", *pictures, "--saved-model", str(tmp_path / "model"), "--output", str(tmp_path / "two")]) == 0
    same(read(tmp_path / "one"), read(tmp_path / "two"))
    small, large = (
        sum(p.stat().st_size for p in (f / "variables").iterdir())
        for f in (tmp_path / "model", exported / "image_tensor")
    )
    assert small < 0.6 * large


@pytest.mark.parametrize("batch_size", [1, 2])
def test_predict_writes_the_same_files_from_a_saved_model(
    exported: Path, checkpoint: tuple[str, ...], ten: TenPictures, tmp_path: Path, batch_size: int
) -> None:
    for name, words in (("one", checkpoint), ("other", ("--saved-model", str(exported / "image_bytes")))):
        output = ["--output", str(tmp_path / name), "--batch-size", str(batch_size)]
        assert run(["predict", *map(str, ten.files[-4:]), *words, *output]) == 0
    same(read(tmp_path / "one"), read(tmp_path / "other"))
    for path in ten.files[-4:]:
        name = f"overlay/{path.stem}.png"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("quantile", [0, 0.5])
def test_another_threshold_gives_the_same_maps_from_checkpoint_and_saved_model(
    exported: Path, checkpoint: tuple[str, ...], ten: TenPictures, predicted: Path, tmp_path: Path, quantile: float
) -> None:
    scores = [d["score"] for d in json.loads((predicted / "detections.json").read_text())]
    threshold = str(np.quantile(scores, quantile) if quantile else 0)  # 0 is lower than the exported threshold
    for name, words in (("one", checkpoint), ("other", ("--saved-model", str(exported / "tf_example")))):
        output = ["--output", str(tmp_path / name), "--score-threshold", threshold]
        assert run(["predict", *map(str, ten.files[:3]), *words, *output]) == 0
    same(read(tmp_path / "one"), read(tmp_path / "other"))
    assert (tmp_path / "one" / "detections.json").read_text() == (tmp_path / "other" / "detections.json").read_text()
    before = [s for _, segments in list(read(predicted).values())[:3] for s in segments]
    kept = [s for _, segments in read(tmp_path / "one").values() for s in segments]
    if family == "panoptic_fpn":  # where more queries compete, each may keep too little
        assert 0 < len(kept) < len(before) if quantile else len(kept) >= len(before)


def test_ids_of_more_than_one_byte_are_encoded_as_colours() -> None:
    import tensorflow as tf

    from panoptic_cli.export.coco_segments import encode_segment_png

    ids = np.array([[0, 1, 255], [256, 65535, 65536], [70000, 16777215, 2]], np.int32)
    rgb = np.asarray(Image.open(io.BytesIO(encode_segment_png(tf.constant(ids)).numpy())))
    np.testing.assert_array_equal(rgb, panoptic_png.ids_to_rgb(ids))
