from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panoptic_cli.coco.dataset import read_dataset
from panoptic_cli.coco.layout import SplitFiles, find_splits
from panoptic_cli.errors import DataError
from panoptic_cli.images import masks, panoptic_png
from panoptic_cli.inspection.record_files import inspect_records
from panoptic_cli.records import schema
from panoptic_cli.records.conversion import ConversionSummary, convert_all
from panoptic_cli.records.encoding import PictureEncoder
from panoptic_cli.records.plans import ConversionPlan, OnBadData
from panoptic_cli.records.regrouping import Regrouping
from panoptic_cli.records.schema import decode_example, semantic_lookup
from panoptic_cli.records.tfrecord import read_records


def _convert(
    data: Path,
    target: Path,
    shards: int = 2,
    workers: int = 1,
    on_bad_data: OnBadData = "fail",
    files: SplitFiles | None = None,
) -> ConversionSummary:
    plan = ConversionPlan(files or find_splits(data, ["val"])[0], target, shards, on_bad_data)
    (summary,) = convert_all([plan], workers)
    return summary


def _examples(target: Path) -> dict[int, dict[str, Any]]:
    found = [decode_example(r) for path in sorted(target.glob("*.tfrecord")) for r in read_records(path)]
    return {int(features[schema.IMAGE_SOURCE_ID][0]): features for features in found}


def _contents(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in target.iterdir()}


def test_records_contain_what_the_files_contain(generated: Path, tmp_path: Path) -> None:
    summary = _convert(generated, tmp_path)
    plan = ConversionPlan(find_splits(generated, ["val"])[0], tmp_path, 2)
    dataset = read_dataset(plan.files)
    examples = _examples(tmp_path)
    assert examples.keys() == {picture.id for picture in dataset.pictures}
    lookup = semantic_lookup(dataset.table)
    for picture in dataset.pictures:
        features = examples[picture.id]
        encoded = (plan.files.image_dir / picture.file_name).read_bytes()
        assert features[schema.IMAGE_ENCODED] == [encoded]
        assert features[schema.IMAGE_FORMAT] == [b"jpeg"]
        ids = panoptic_png.read_segment_ids(plan.files.panoptic_masks / picture.mask_name)
        places = masks.decode_png(features[schema.SEGMENT_MASK][0])
        by_place = np.array([0, *features[schema.SEGMENT_ID]])
        np.testing.assert_array_equal(by_place[places], ids)  # exact: the panoptic PNG can be restored
        categories = np.array([0, *features[schema.SEGMENT_CATEGORY]])
        np.testing.assert_array_equal(masks.decode_png(features[schema.CATEGORY_MASK][0]), categories[places])
        np.testing.assert_array_equal(masks.decode_png(features[schema.SEMANTIC_MASK][0]), lookup[categories[places]])
        isthing = np.array([False, *(dataset.table.by_id[c].isthing for c in categories[1:])])
        instances = masks.decode_png(features[schema.INSTANCE_MASK][0])
        np.testing.assert_array_equal(instances, np.where(isthing[places], places, 0))
        assert [bool(v) for v in features[schema.SEGMENT_IS_CROWD]] == [s.is_crowd for s in picture.segments]
        assert list(features[schema.SEGMENT_AREA]) == [s.area for s in picture.segments]
        objects = picture.objects or ()
        assert list(features[schema.OBJECT_LABEL]) == [o.category_id for o in objects]
        for place, annotation in enumerate(objects):
            mask = masks.decode_png(features[schema.OBJECT_MASK][place])
            assert mask.sum() == annotation.area == features[schema.OBJECT_AREA][place]
            x, y, w, _ = annotation.bbox or (0, 0, 0, 0)
            box = [features[key][place] for key in (schema.OBJECT_XMIN, schema.OBJECT_YMIN, schema.OBJECT_XMAX)]
            # float32 fractions
            np.testing.assert_allclose(box, [x / picture.width, y / picture.height, (x + w) / picture.width], atol=1e-6)
    assert summary.pictures == 6
    assert summary.objects == sum(len(p.objects or ()) for p in dataset.pictures)
    assert summary.crowds == sum(o.is_crowd for p in dataset.pictures for o in p.objects or ())
    assert summary.segments == sum(len(p.segments) for p in dataset.pictures)
    assert summary.skipped_objects == summary.skipped_pictures == {}


def test_encoder_and_pictures_can_be_pickled(generated: Path, tmp_path: Path) -> None:
    dataset = read_dataset(find_splits(generated, ["val"])[0])
    encoder = PictureEncoder(dataset.files, Regrouping(dataset.table))
    sent_encoder, sent_pictures = pickle.loads(pickle.dumps((encoder, dataset.pictures[1::2])))
    assert list(sent_pictures) == list(dataset.pictures)[1::2]
    for picture in sent_pictures:
        assert sent_encoder.encode(picture) == encoder.encode(pickle.loads(pickle.dumps(picture)))


def test_pictures_are_dealt_to_shards_in_id_order(generated: Path, tmp_path: Path) -> None:
    _convert(generated, tmp_path, shards=4)
    for shard in range(4):
        path = tmp_path / f"val-{shard:05d}-of-00004.tfrecord"
        ids = [int(decode_example(r)[schema.IMAGE_SOURCE_ID][0]) for r in read_records(path)]
        assert ids == [200000 + 3 * i for i in range(6)][shard::4]


def test_the_bytes_do_not_depend_on_the_number_of_workers(generated: Path, tmp_path: Path) -> None:
    _convert(generated, tmp_path / "one", shards=3, workers=1)
    _convert(generated, tmp_path / "three", shards=3, workers=3)
    assert _contents(tmp_path / "one") == _contents(tmp_path / "three")


def test_only_missing_or_stale_shards_are_made_again(dataset: Path, tmp_path: Path) -> None:
    target = tmp_path / "records"
    first = _convert(dataset, target, shards=3)
    before = _contents(target)
    assert _convert(dataset, target, shards=3).kept_shards == 3
    (target / "val-00001-of-00003.tfrecord").unlink()
    again = _convert(dataset, target, shards=3)
    assert (again.kept_shards, again.pictures, again.objects) == (2, first.pictures, first.objects)
    assert _contents(target) == before
    picture = dataset / "val2017" / "000000200000.jpg"  # in shard 0
    with Image.open(picture) as opened:
        Image.fromarray(255 - np.asarray(opened)).save(picture)
    assert _convert(dataset, target, shards=3).kept_shards == 2
    assert _convert(dataset, target, shards=3, on_bad_data="skip").kept_shards == 0


def test_a_damaged_manifest_is_made_again(generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _convert(generated, tmp_path, shards=3)
    before = _contents(tmp_path)
    manifest = tmp_path / "val.manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:200])
    assert _convert(generated, tmp_path, shards=3).kept_shards == 0
    assert f"{manifest} is not valid JSON" in " ".join(capsys.readouterr().err.split())
    assert _contents(tmp_path) == before


def test_a_damaged_shard_is_made_again(generated: Path, tmp_path: Path) -> None:
    _convert(generated, tmp_path, shards=3)
    before = _contents(tmp_path)
    path = tmp_path / "val-00002-of-00003.tfrecord"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # size and modification time do not change
    stat = path.stat()
    path.write_bytes(damaged)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert _convert(generated, tmp_path, shards=3, workers=2).kept_shards == 2
    assert _contents(tmp_path) == before


@pytest.mark.parametrize("category", [1 << 16, 1 << 31, 1 << 62])
def test_category_ids_that_do_not_fit_label_pictures_are_refused(dataset: Path, tmp_path: Path, category: int) -> None:
    path = dataset / "annotations" / "panoptic_val2017.json"
    value = json.loads(path.read_text())
    value["categories"].append({"id": category, "name": "\ud800", "isthing": 1})
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match="Renumber the categories"):
        _convert(dataset, tmp_path)


def _break(data: Path, how: str) -> str:
    """Breaks picture 200003 in one way and returns the reason that it is counted under."""
    picture, mask = data / "val2017" / "000000200003.jpg", data / "panoptic_val2017" / "000000200003.png"
    if how == "no picture":
        picture.unlink()
        return "picture missing"
    if how == "cut picture":
        picture.write_bytes(picture.read_bytes()[:-500])
        return "unreadable picture"
    if how == "empty picture":
        picture.write_bytes(b"")
        return "unreadable picture"
    if how == "other size":
        Image.new("RGB", (50, 50)).save(picture)
        return "size mismatch"
    if how == "no mask":
        mask.unlink()
        return "mask missing"
    if how == "cut mask":
        mask.write_bytes(mask.read_bytes()[:300])
        return "unreadable mask"
    path = data / "annotations" / "panoptic_val2017.json"
    value = json.loads(path.read_text())
    segments = next(a for a in value["annotations"] if a["image_id"] == 200003)["segments_info"]
    if how == "mask id not in the JSON":
        segments.pop()
        path.write_text(json.dumps(value))
        return "mask ids not in the JSON"
    path = data / "annotations" / "instances_val2017.json"
    value = json.loads(path.read_text())
    next(a for a in value["annotations"] if a["image_id"] == 200003)["segmentation"] = [["x"] * 6]
    path.write_text(json.dumps(value))
    return "malformed segmentation"


WAYS = [
    *("no picture", "cut picture", "empty picture", "other size", "no mask", "cut mask"),
    *("mask id not in the JSON", "bad polygon"),
]


@pytest.mark.parametrize("how", WAYS)
def test_a_bad_picture_stops_the_conversion_or_is_skipped(dataset: Path, tmp_path: Path, how: str) -> None:
    reason = _break(dataset, how)
    target = tmp_path / "records"
    with pytest.raises(DataError, match=r"000000200003\.jpg"):
        _convert(dataset, target)
    left = {p.name for p in target.iterdir()}
    # Shard 0 (pictures 0, 2, 4) was first and is complete; nothing of shard 1 exists.
    assert left == {"categories.json", "val.manifest.json", "val-00000-of-00002.tfrecord"}
    assert json.loads((target / "val.manifest.json").read_text())["complete"] is False
    summary = _convert(dataset, target, on_bad_data="skip")
    assert summary.skipped_pictures == {reason: 1}
    assert summary.pictures == 5
    assert 200003 not in _examples(target)


def test_a_bad_picture_in_a_worker_raises_the_same_error(dataset: Path, tmp_path: Path) -> None:
    _break(dataset, "no mask")
    with pytest.raises(DataError, match=r"Picture 200003 .*000000200003\.png does not exist"):
        _convert(dataset, tmp_path / "records", workers=2)
    assert not list((tmp_path / "records").glob(".*"))


def _change_object(data: Path, **fields: Any) -> int:
    path = data / "annotations" / "instances_val2017.json"
    value = json.loads(path.read_text())
    annotation = next(a for a in value["annotations"] if not a["iscrowd"])
    annotation.update(fields)
    path.write_text(json.dumps(value))
    return int(annotation["image_id"])


def test_boxes_that_leave_the_picture_are_clipped(dataset: Path, tmp_path: Path) -> None:
    picture = _change_object(dataset, bbox=[-0.4, 3, 1000, 1000.5])
    summary = _convert(dataset, tmp_path / "records")
    features = _examples(tmp_path / "records")[picture]
    assert features[schema.OBJECT_XMIN][0] == 0
    assert features[schema.OBJECT_XMAX][0] == features[schema.OBJECT_YMAX][0] == 1
    assert summary.skipped_objects == {}
    assert summary.notes == {"boxes cut at the picture's edge": 1}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bbox": [3, 3, 0, 5]}, "box without area"),
        ({"bbox": [500, 3, 10, 5]}, "box outside the picture"),
        ({"segmentation": [[1, 1, 1, 1, 1, 1]]}, "empty mask"),
        ({"segmentation": []}, "empty mask"),
    ],
)
def test_degenerate_objects_are_counted_by_reason(
    dataset: Path, tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    before = _convert(dataset, tmp_path / "before").objects
    _change_object(dataset, **fields)
    summary = _convert(dataset, tmp_path / "records")
    assert summary.skipped_objects == {reason: 1}
    assert summary.objects == before - 1


def test_an_outline_that_is_not_json_stops_the_conversion(dataset: Path, tmp_path: Path) -> None:
    """Outlines are decoded only when their picture is converted."""
    path = dataset / "annotations" / "instances_val2017.json"
    value = json.loads(path.read_text())
    value["annotations"][2]["segmentation"] = [[float(n) for n in range(100)]]
    path.write_text(json.dumps(value).replace(" 41.0,", " 4x1.0,"))
    with pytest.raises(DataError, match=r"instances_val2017\.json is not valid JSON.*in the entry at byte \d+"):
        _convert(dataset, tmp_path / "records", shards=1)
    assert not list((tmp_path / "records").glob("*.tfrecord"))


def test_objects_are_derived_from_segments_without_an_instances_file(generated: Path, tmp_path: Path) -> None:
    given = find_splits(generated, ["val"])[0]
    files = SplitFiles("mine", given.panoptic_annotations, given.panoptic_masks, given.image_dir, None)
    summary = _convert(generated, tmp_path, files=files)
    assert sorted(p.name for p in tmp_path.glob("mine-*"))[0] == "mine-00000-of-00002.tfrecord"
    for features in _examples(tmp_path).values():
        places = masks.decode_png(features[schema.SEGMENT_MASK][0])
        instances = masks.decode_png(features[schema.INSTANCE_MASK][0])
        things = sorted(set(np.unique(instances).tolist()) - {0})
        assert len(features[schema.OBJECT_MASK]) == len(things)
        for encoded, place in zip(features[schema.OBJECT_MASK], things, strict=True):
            np.testing.assert_array_equal(masks.decode_png(encoded), places == place)
    assert summary.objects > 0


def test_ids_may_have_any_size_and_order(dataset: Path, tmp_path: Path) -> None:
    before = _convert(dataset, tmp_path / "before")
    huge = {200000 + 3 * i: (1 << 61) - 977 * (i % 4) + i for i in range(6)}
    for name in ("panoptic", "instances"):
        path = dataset / "annotations" / f"{name}_val2017.json"
        value = json.loads(path.read_text())
        for image in value["images"]:
            image["id"] = huge[image["id"]]
        for annotation in value["annotations"]:
            annotation["image_id"] = huge[annotation["image_id"]]
            annotation["id"] = (1 << 62) - annotation.get("id", 0)
        value["annotations"].reverse()
        path.write_text(json.dumps(value))
    after = _convert(dataset, tmp_path / "records")
    assert set(_examples(tmp_path / "records")) == set(huge.values())
    counts = ("pictures", "objects", "crowds", "segments")
    assert [getattr(after, name) for name in counts] == [getattr(before, name) for name in counts]


def test_a_turned_picture_is_stored_as_the_annotations_need_it(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "val2017" / "000000200003.jpg"
    with Image.open(path) as opened:
        pixels = np.asarray(opened)
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers turn it by 90 degrees
    Image.fromarray(np.rot90(pixels)).save(path, exif=exif, quality=95)
    summary = _convert(dataset, tmp_path / "records")
    assert [(note.split(" as")[0], count) for note, count in summary.notes.items()] == [("pictures turned", 1)]
    features = _examples(tmp_path / "records")[200003]
    assert features[schema.IMAGE_FORMAT] == [b"png"]
    with Image.open(io.BytesIO(features[schema.IMAGE_ENCODED][0])) as opened:
        assert opened.size == (features[schema.IMAGE_WIDTH][0], features[schema.IMAGE_HEIGHT][0])
        # The same picture except for two JPEG compressions; a picture turned the wrong way differs by 30 and more.
        assert np.abs(np.asarray(opened).astype(int) - pixels).mean() < 8


def test_a_picture_can_have_more_than_255_segments(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "annotations" / "panoptic_val2017.json"
    value = json.loads(path.read_text())
    image = value["images"][0]
    annotation = next(a for a in value["annotations"] if a["image_id"] == image["id"])
    ids = np.zeros((image["height"], image["width"]), np.uint32)
    ids.ravel()[: 300 * 4] = np.repeat(np.arange(300) * 55555 + 9, 4)
    (dataset / "panoptic_val2017" / annotation["file_name"]).write_bytes(panoptic_png.encode_ids(ids))
    annotation["segments_info"] = [{"id": i * 55555 + 9, "category_id": 7} for i in range(299, -1, -1)]
    path.write_text(json.dumps(value))
    given = find_splits(dataset, ["val"])[0]
    files = SplitFiles("val", given.panoptic_annotations, given.panoptic_masks, given.image_dir, None)
    _convert(dataset, tmp_path / "records", files=files)
    features = _examples(tmp_path / "records")[image["id"]]
    instances = masks.decode_png(features[schema.INSTANCE_MASK][0])
    assert instances.max() == 300  # more than 8 bits hold
    np.testing.assert_array_equal(np.array([0, *features[schema.SEGMENT_ID]])[instances], ids)
    assert len(features[schema.OBJECT_MASK]) == 300


def test_a_grey_png_picture_is_stored_as_found(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "val2017" / "000000200003.jpg"
    with Image.open(path) as opened:
        opened.convert("L").save(path, "PNG")
    _convert(dataset, tmp_path / "records")
    features = _examples(tmp_path / "records")[200003]
    assert features[schema.IMAGE_FORMAT] == [b"png"]
    assert features[schema.IMAGE_ENCODED] == [path.read_bytes()]


def test_the_record_checker_accepts_records_and_finds_damage(generated: Path, tmp_path: Path) -> None:
    summary = _convert(generated, tmp_path)
    paths = sorted(tmp_path.glob("*.tfrecord"))
    report = inspect_records(paths, workers=1)
    assert report.findings.to_list() == []
    assert [report.counts[k] for k in ("files", "records", "objects", "segments")] == [
        2,
        6,
        summary.objects,
        summary.segments,
    ]
    data = bytearray(paths[1].read_bytes())
    data[len(data) // 2] ^= 4
    paths[1].write_bytes(data)
    damaged = inspect_records(paths, workers=1).findings.ordered()
    assert [f.kind for f in damaged] == ["damaged record file"]
    assert str(paths[1]) in damaged[0].examples[0]
