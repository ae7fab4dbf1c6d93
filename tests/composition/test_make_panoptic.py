"""`panoptic make-panoptic` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panoptic_cli.commands.main import run
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from panoptic_cli.demo.shapes import CATEGORIES, GRASS, SKY, WATER
from panoptic_cli.images import panoptic_png

Out = pytest.CaptureFixture[str]
STUFF = (GRASS, SKY, WATER)


def _json(capsys: Out, *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def _load(path: Path) -> Any:
    return json.loads(path.read_text())


def _change(path: Path, change: Callable[[Any], Any]) -> None:
    value = _load(path)
    change(value)
    path.write_text(json.dumps(value))


def _segments(annotation: dict[str, Any], folder: Path) -> list[tuple[int, int, np.ndarray]]:
    """Returns (category, crowd flag, mask) of a picture's segments, in an order that does not depend on the ids."""
    ids = panoptic_png.read_segment_ids(folder / annotation["file_name"])
    found = [(s["category_id"], s["iscrowd"], ids == s["id"]) for s in annotation["segments_info"]]
    assert sum(int(mask.sum()) for *_, mask in found) == np.count_nonzero(ids)
    return sorted(found, key=lambda segment: (segment[:2], segment[2].tobytes()))


def _same_segments(first: Path, second: Path) -> int:
    """Asserts that two panoptic JSONs have the same segments in the same pictures; returns their number."""
    one, two = ({a["image_id"]: a for a in _load(path)["annotations"]} for path in (first, second))
    assert one.keys() == two.keys()
    count = 0
    for image, annotation in one.items():
        a, b = _segments(annotation, _masks(first)), _segments(two[image], _masks(second))
        assert [segment[:2] for segment in a] == [segment[:2] for segment in b]
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x[2], y[2])
        count += len(a)
    return count


def _masks(path: Path) -> Path:
    beside = path.with_suffix("")
    return beside if beside.is_dir() else path.parents[1] / path.stem


@pytest.fixture
def separate(dataset: Path) -> Path:
    """The generated set as it was annotated: stuff JSONs and semantic PNGs; its panoptic files are in truth/."""
    (dataset / "truth").mkdir()
    for split in ("train", "val"):
        original = dataset / "annotations" / f"panoptic_{split}2017.json"
        folder = dataset / f"panoptic_{split}2017"
        value = _load(original)
        stuff: list[dict[str, Any]] = []
        (dataset / "semantic" / f"{split}2017").mkdir(parents=True)
        for annotation in value["annotations"]:
            ids = panoptic_png.read_segment_ids(folder / annotation["file_name"])
            labels = np.zeros(ids.shape, np.uint8)
            for segment in annotation["segments_info"]:
                if segment["category_id"] in STUFF:
                    labels[ids == segment["id"]] = segment["category_id"]
                    outline = coco_mask.encode(np.asfortranarray(ids == segment["id"], np.uint8))
                    outline["counts"] = outline["counts"].decode()
                    entry = {"id": len(stuff), "category_id": segment["category_id"], "segmentation": outline}
                    stuff.append(entry | {"image_id": annotation["image_id"], "iscrowd": 0})
            Image.fromarray(labels).save(dataset / "semantic" / f"{split}2017" / annotation["file_name"])
        names = [{"id": c["id"], "name": c["name"]} for c in CATEGORIES if c["id"] in STUFF]
        stuff_json = {"images": value["images"], "annotations": stuff, "categories": names}
        (dataset / "annotations" / f"stuff_{split}2017.json").write_text(json.dumps(stuff_json))
        original.rename(dataset / "truth" / original.name)
        folder.rename(dataset / "truth" / folder.name)
    (dataset / "names.yaml").write_text("".join(f"{c['id']}: {c['name']}\n" for c in CATEGORIES if c["id"] in STUFF))
    return dataset


@pytest.mark.parametrize("stuff", ["json", "png"])
def test_the_generated_set_is_made_again(separate: Path, capsys: Out, stuff: str) -> None:
    """Its things were painted in the order of the annotations, so the same PNGs have to come out."""
    options = ["--overlaps", "later-on-top", "--workers", "2" if stuff == "json" else "1"]
    if stuff == "png":
        options += ["--semantic-masks", str(separate / "semantic"), "--stuff-categories", str(separate / "names.yaml")]
    value = _json(capsys, "make-panoptic", "--data-dir", str(separate), *options)
    counts = {split["name"]: split for split in value["splits"]}
    for name in ("train", "val"):
        made, truth = (separate / place / f"panoptic_{name}2017.json" for place in ("annotations", "truth"))
        split = counts[name]
        assert _same_segments(made, truth) == split["things"] + split["crowds"] + split["stuff"]
        assert _load(made)["images"] == _load(separate / "annotations" / f"instances_{name}2017.json")["images"]
    assert counts["train"]["crowds"] == 1
    assert counts["train"]["partly_hidden"] > 0
    found = _json(capsys, "inspect", str(separate))
    assert found["errors"] == 0
    records = _json(capsys, "make-tfrecords", "--data-dir", str(separate), "--shards", "1", "--workers", "1")
    assert [split["pictures"] for split in records["splits"]] == [12, 6]


@pytest.mark.shared
def test_cocos_objects_are_painted_as_by_panopticapi(coco100: Path, tmp_path: Path, capsys: Out) -> None:
    """Its detection2panoptic_coco_format.py draws each annotation with annToMask, and refuses overlaps."""
    instances, output = coco100 / "annotations" / "instances_val2017.json", tmp_path / "panoptic.json"
    value = _json(capsys, "make-panoptic", "--object-annotations", str(instances), "--output", str(output))
    annotations = {a["image_id"]: a for a in _load(output)["annotations"]}
    coco = COCO(str(instances))
    without_overlaps = 0
    for image in coco.getImgIds():
        entries = coco.loadAnns(coco.getAnnIds(image))
        drawn = [coco.annToMask(entry) for entry in entries]
        if entries and np.sum(drawn, axis=0).max() > 1:
            continue
        without_overlaps += 1
        found = annotations[image]
        ids = panoptic_png.read_segment_ids(output.with_suffix("") / found["file_name"])
        assert found["file_name"] == coco.loadImgs(image)[0]["file_name"].replace(".jpg", ".png")
        assert [s["category_id"] for s in found["segments_info"]] == [e["category_id"] for e in entries]
        assert [s["iscrowd"] for s in found["segments_info"]] == [e["iscrowd"] for e in entries]
        for segment, mask in zip(found["segments_info"], drawn, strict=True):
            np.testing.assert_array_equal(ids == segment["id"], mask)
    assert without_overlaps == 39
    assert value["splits"][0]["pictures"] == 50


def _own(folder: Path, annotations: list[dict[str, Any]], **image: Any) -> Path:
    """Writes a picture of 8 x 6 pixels and its instances JSON; returns the JSON."""
    Image.new("RGB", (8, 6)).save(folder / "a.jpg")
    entry = {"id": 1, "file_name": "a.jpg", "width": 8, "height": 6} | image
    value = {
        "images": [entry],
        "annotations": [{"id": i, "image_id": 1, **a} for i, a in enumerate(annotations)],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "road"}],
    }
    (folder / "instances.json").write_text(json.dumps(value))
    return folder / "instances.json"


def _box(x: int, y: int, width: int, height: int, category: int = 1) -> dict[str, Any]:
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {"category_id": category, "segmentation": [corners]}


def _ids(output: Path) -> tuple[np.ndarray, list[dict[str, Any]]]:
    (annotation,) = _load(output)["annotations"]
    return panoptic_png.read_segment_ids(output.with_suffix("") / annotation["file_name"]), annotation["segments_info"]


def test_polygons_in_other_forms_are_drawn_and_told(tmp_path: Path, capsys: Out) -> None:
    annotations = [_box(1, 1, 2, 2), _box(3, 0, 3, 4), _box(0, 3, 2, 1)]
    output = tmp_path / "panoptic.json"
    command = ["make-panoptic", "--object-annotations", str(_own(tmp_path, annotations))]
    _json(capsys, *command)
    expected, segments = _ids(output)
    for annotation, form in zip(annotations, (_as_text, _without_list, _as_pairs), strict=True):
        annotation["segmentation"] = form(annotation["segmentation"][0])
    _own(tmp_path, annotations)
    (split,) = _json(capsys, *command)["splits"]
    ids, after = _ids(output)
    np.testing.assert_array_equal(ids, expected)
    assert (after, split["reshaped"]) == (segments, 3)


def _as_text(corners: list[float]) -> Any:
    return [[str(x) for x in corners]]


def _without_list(corners: list[float]) -> Any:
    return corners


def _as_pairs(corners: list[float]) -> Any:
    return [list(pair) for pair in zip(corners[::2], corners[1::2], strict=True)]


def test_overlaps_and_what_vanishes_are_told(tmp_path: Path, capsys: Out) -> None:
    annotations = [_box(1, 1, 2, 2), _box(0, 0, 4, 4), _box(3, 0, 3, 4), {"category_id": 1, "segmentation": []}]
    path = _own(tmp_path, annotations)
    output = tmp_path / "panoptic.json"
    (split,) = _json(capsys, "make-panoptic", "--object-annotations", str(path))["splits"]
    assert (split["things"], split["partly_hidden"], split["mostly_hidden"], split["empty"]) == (3, 1, 0, 1)
    arguments = ["make-panoptic", "--object-annotations", str(path), "--overlaps", "later-on-top"]
    assert run(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "panoptic: 1 thing is partly hidden by others, 0 by more than half" in shown
    assert "panoptic: 1 thing is wholly hidden by others and left out: car 0 of a.jpg" in shown
    assert "panoptic: left out 1 annotation without outline or without pixels" in shown
    ids, segments = _ids(output)
    assert [s["area"] for s in segments] == [12, 12]
    assert np.count_nonzero(ids == 0) == 48 - 24


def test_stuff_in_the_instances_json(tmp_path: Path, capsys: Out) -> None:
    """A map says which categories are stuff; their polygons become one segment below the things."""
    path = _own(tmp_path, [_box(0, 0, 2, 6, 2), _box(1, 1, 3, 3), _box(6, 0, 2, 6, 2)])
    (tmp_path / "map.yaml").write_text("road: stuff\ncar: {name: vehicle, id: 7}\n")
    options = ["--object-annotations", str(path), "--category-map", str(tmp_path / "map.yaml")]
    _json(capsys, "make-panoptic", *options)
    ids, segments = _ids(tmp_path / "panoptic.json")
    assert [(s["category_id"], s["area"]) for s in segments] == [(2, 21), (7, 9)]
    assert ids[0, 0] == ids[0, 7] == segments[0]["id"]
    assert [(c["name"], c["isthing"]) for c in _load(tmp_path / "panoptic.json")["categories"]] == [
        *(("vehicle", 1), ("road", 0))
    ]


def test_a_stuff_json_numbers_pictures_and_categories_in_its_own_way(tmp_path: Path, capsys: Out) -> None:
    path = _own(tmp_path, [_box(0, 0, 2, 2)])
    value = {
        "images": [{"id": "x", "file_name": "b.jpg"}, {"id": 1, "file_name": "c.jpg"}, {"id": 7, "file_name": "a.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 7, **_box(0, 0, 8, 3, category=1)},
            {"id": 2, "image_id": 7, **_box(0, 3, 8, 3, category=183)},
            {"id": 3, "image_id": 1, **_box(0, 0, 8, 6, category=1)},
        ],
        "categories": [{"id": 1, "name": "sky"}, {"id": 183, "name": "other"}],
    }
    (tmp_path / "stuff.json").write_text(json.dumps(value))
    options = ["--stuff-annotations", str(tmp_path / "stuff.json")]
    assert run(["make-panoptic", "--object-annotations", str(path), *options]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "'other' (183)" in told
    assert "get other ids: sky 1 -> 3." in told
    assert "1 annotation of" in told
    ids, segments = _ids(tmp_path / "panoptic.json")
    assert [(s["category_id"], s["area"]) for s in segments] == [(1, 4), (3, 20)]
    assert np.count_nonzero(ids[3:]) == 0


def test_one_list_of_categories_for_objects_and_semantic_pngs(tmp_path: Path, capsys: Out) -> None:
    """The map says that the road is stuff; the car's pixels in the PNG are unlabelled where no car is outlined."""
    path = _own(tmp_path, [_box(0, 0, 2, 2)])
    labels = np.full((6, 8), 2, np.uint8)
    labels[:3] = 1
    (tmp_path / "semantic").mkdir()
    Image.fromarray(labels).save(tmp_path / "semantic" / "a.png")
    options = ["make-panoptic", "--object-annotations", str(path), "--semantic-masks", str(tmp_path / "semantic")]
    assert run(options) == 1
    assert "--stuff-categories" in capsys.readouterr().err
    (tmp_path / "map.yaml").write_text("road: stuff\n")
    assert run([*options, "--category-map", str(tmp_path / "map.yaml")]) == 0
    ids, segments = _ids(tmp_path / "panoptic.json")
    assert [(s["category_id"], s["area"]) for s in segments] == [(1, 4), (2, 24)]
    assert np.count_nonzero(ids[:3]) == 4


def test_category_ids_from_0_and_ids_as_text(tmp_path: Path, capsys: Out) -> None:
    path = _own(tmp_path, [_box(0, 0, 2, 2, category=0), _box(4, 0, 2, 2, category=1)])

    def renumber(value: Any) -> None:
        value["categories"] = [{"id": 0, "name": "car"}, {"id": "1", "name": "road", "isthing": 0}]
        value["images"][0] |= {"id": "frame_1", "file_name": "sub\\a.jpg"}
        for annotation in value["annotations"]:
            annotation["image_id"] = "frame_1"

    _change(path, renumber)
    assert run(["make-panoptic", "--object-annotations", str(path)]) == 0
    assert "are raised by 1" in capsys.readouterr().err
    _, segments = _ids(tmp_path / "panoptic.json")
    assert [(s["category_id"], s["area"]) for s in segments] == [(1, 4), (2, 4)]
    assert (tmp_path / "panoptic" / "sub" / "a.png").is_file()
    value = _load(tmp_path / "panoptic.json")
    assert value["annotations"][0]["image_id"] == value["images"][0]["id"] == "frame_1"
    assert [(c["id"], c["isthing"]) for c in value["categories"]] == [(1, 1), (2, 0)]


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "I;16"])
def test_semantic_pngs_of_several_kinds(tmp_path: Path, capsys: Out, mode: str) -> None:
    """Values from 0, as Cityscapes' training labels: 0 road, 1 sky, 2 car (a thing: unlabelled), 255 unlabelled."""
    labels = np.full((6, 8), 255, np.uint8)
    labels[:3], labels[3, :4], labels[4] = 0, 1, 2
    picture = Image.fromarray(labels.astype(np.uint16) if mode == "I;16" else labels)
    if mode == "P":
        picture.putpalette(list(range(255, -1, -1)) * 3)
    (tmp_path / "semantic").mkdir()
    (picture.convert("RGB") if mode == "RGB" else picture).save(tmp_path / "semantic" / "a.png")
    (tmp_path / "names.yaml").write_text("0: street\n1: sky\n2: car\n")
    path = _own(tmp_path, [_box(0, 0, 2, 2)])
    options = ["--semantic-masks", str(tmp_path / "semantic"), "--stuff-categories", str(tmp_path / "names.yaml")]
    assert run(["make-panoptic", "--object-annotations", str(path), *options]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "get other ids: street 0 -> 3, sky 1 -> 4." in told
    assert "unlabelled where no object is: car." in told
    ids, segments = _ids(tmp_path / "panoptic.json")
    assert [(s["category_id"], s["area"]) for s in segments] == [(1, 4), (3, 20), (4, 4)]
    assert np.count_nonzero(ids[4:]) == 0


def test_sizes_come_from_the_pictures(tmp_path: Path, capsys: Out) -> None:
    path = _own(tmp_path, [_box(0, 0, 2, 2)], width=-1, height=None)
    arguments = ["make-panoptic", "--object-annotations", str(path)]
    assert run(arguments) == 1
    assert "give the pictures with --image-dir" in capsys.readouterr().err
    assert run([*arguments, "--image-dir", str(tmp_path)]) == 0
    (image,) = _load(tmp_path / "panoptic.json")["images"]
    assert (image["width"], image["height"]) == (8, 6)


def test_a_picture_that_viewers_turn_has_the_size_of_its_run_lengths_or_as_shown(tmp_path: Path, capsys: Out) -> None:
    stored = {"category_id": 1, "segmentation": {"size": [6, 8], "counts": [0, 6, 42]}}
    exif = Image.Exif()
    exif[0x0112] = 6
    for annotation, size in ((_box(0, 0, 2, 2), (6, 8)), (stored, (8, 6))):
        path = _own(tmp_path, [annotation], width=None)
        Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
        assert run(["make-panoptic", "--object-annotations", str(path), "--image-dir", str(tmp_path)]) == 0
        (image,) = _load(tmp_path / "panoptic.json")["images"]
        assert (image["width"], image["height"]) == size


def test_only_what_changed_is_made_again(separate: Path, capsys: Out) -> None:
    folder = separate / "semantic"
    arguments = ["make-panoptic", "--data-dir", str(separate), "--split", "val", "--workers", "1"]
    arguments += ["--semantic-masks", str(folder), "--stuff-categories", str(separate / "names.yaml")]
    output, masks = separate / "annotations" / "panoptic_val2017.json", separate / "panoptic_val2017"
    plan = _json(capsys, *arguments, "--dry-run")
    assert plan["splits"][0]["pictures"] == 6
    assert not masks.exists()
    assert _json(capsys, *arguments)["splits"][0]["kept_pictures"] == 0
    first = {path.name: path.read_bytes() for path in (*masks.iterdir(), output)}
    names = sorted(path.name for path in masks.glob("*.png"))
    (masks / names[0]).write_bytes(b"damaged")
    output.unlink()
    with Image.open(folder / "val2017" / names[1]) as opened:
        labels = np.asarray(opened)
    Image.fromarray(labels).save(folder / "val2017" / names[1], compress_level=1)
    again = _json(capsys, *arguments)["splits"][0]
    assert again["kept_pictures"] == 4
    assert {path.name: path.read_bytes() for path in (*masks.glob("*.png"), output)} == {
        name: content for name, content in first.items() if not name.startswith(".")
    }
    instances = separate / "annotations" / "instances_val2017.json"
    _change(instances, lambda value: value["images"].pop(0))
    assert run(arguments) == 0
    assert "annotations of no picture in images" in capsys.readouterr().err
    assert len(list(masks.glob("*.png"))) == 5


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda v: v["annotations"][0].update(category_id=9), 1, "categories that its categories lack: 9"),
        (lambda v: v["annotations"][0].update(image_id=None), 1, "annotations[0] has no usable image_id"),
        (lambda v: v["annotations"][0].update(image_id=5), 1, "belongs to a picture"),
        (lambda v: v["annotations"][0].update(segmentation=[[1, 2, 3]]), 1, "cannot be made: annotation 0: a polygon"),
        (lambda v: v["annotations"][0].pop("segmentation"), 1, "Boxes are not enough"),
        (lambda v: v["images"].append(v["images"][0]), 1, "images[1] has the id 1 of another image"),
        (lambda v: v["images"][0].update(file_name="../a.jpg"), 1, "inside the data folder"),
        (lambda v: v["images"][0].pop("file_name"), 1, "images[0] has no file_name"),
        (lambda v: v["categories"][0].pop("name"), 1, "has no name"),
        (lambda v: v.update(images=[]), 1, "belongs to a picture"),
        (lambda v: v.pop("annotations"), 1, "has no list of annotations"),
    ],
)
def test_mistakes_in_the_json_are_named(
    tmp_path: Path, capsys: Out, change: Callable[[Any], Any], code: int, message: str
) -> None:
    path = _own(tmp_path, [_box(0, 0, 2, 2)])
    _change(path, change)
    assert run(["make-panoptic", "--object-annotations", str(path)]) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "panoptic.json").exists()


def test_bad_pictures_are_skipped_on_request(tmp_path: Path, capsys: Out) -> None:
    path = _own(tmp_path, [_box(0, 0, 2, 2)])

    def add_a_bad_picture(value: Any) -> None:
        value["images"].append(value["images"][0] | {"id": 2, "file_name": "b.jpg"})
        value["annotations"].append({"id": 9, "image_id": 2, "category_id": 1, "segmentation": [[1]]})

    _change(path, add_a_bad_picture)
    (split,) = _json(capsys, "make-panoptic", "--object-annotations", str(path), "--on-bad-data", "skip")["splits"]
    assert split["skipped_pictures"] == {"malformed segmentation": 1}
    assert [image["id"] for image in _load(tmp_path / "panoptic.json")["images"]] == [1]


def test_what_a_killed_process_left_is_removed(tmp_path: Path, capsys: Out) -> None:
    source = _own(tmp_path, [_box(1, 1, 5, 5)])
    command = ["make-panoptic", "--object-annotations", str(source), "--output", str(tmp_path / "made.json")]
    _json(capsys, *command)
    names = ("made/.a.png.7.partial", "made/sub/.a.png.7.partial", ".made.json.7.partial", ".other.json.7.partial")
    left = [tmp_path / name for name in names]
    (tmp_path / "made" / "sub").mkdir()
    for path in left:
        path.write_bytes(b"half")
    _json(capsys, *command)
    assert [path.exists() for path in left] == [False, False, False, True]


def test_files_of_others_are_not_replaced(dataset: Path, capsys: Out) -> None:
    assert run(["make-panoptic", "--data-dir", str(dataset)]) == 1
    assert "was not made by panoptic make-panoptic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data-dir", "nowhere"], 1, "The data folder nowhere does not exist"),
        (["--data-dir", "."], 1, "not found:   - annotations/instances_train2017.json"),
        (["--split", "test"], 2, "--split is train or val"),
        (["--output", "x.json"], 2, "--object-annotations"),
        (["--object-annotations", "a.json", "--split", "val"], 2, "COCO's layout"),
        (["--object-annotations", "a.json", "--output", "x"], 2, "must end with .json"),
        (["--object-annotations", "a.json"], 1, "a.json does not exist"),
        (["--object-annotations", "a.json", "--stuff-annotations", "s", "--semantic-masks", "m"], 2, "exclude"),
        (["--object-annotations", "a.json", "--stuff-categories", "s"], 2, "--semantic-masks"),
        (["--object-annotations", "a.json", "--semantic-masks", "m"], 1, "semantic PNGs m does not exist"),
    ],
)
def test_wrong_calls_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["make-panoptic", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []
