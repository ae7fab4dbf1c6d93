from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.dataset import read_dataset
from panoptic_cli.coco.layout import coco_files
from panoptic_cli.images.orientation import Exif
from panoptic_cli.inspection import samples
from panoptic_cli.inspection.dataset import inspect_split
from panoptic_cli.inspection.statistics import spread_evenly
from panoptic_cli.records.conversion import convert
from panoptic_cli.records.files import find_record_files
from panoptic_cli.records.plans import ConversionPlan
from panoptic_cli.records.tfrecord import TFRecordWriter, read_records


def _paths(pattern: str) -> list[Path]:
    return [Path(path) for path in find_record_files(pattern)]


def test_samples_from_files_and_from_records_are_the_same(shapes_dir: Path, shapes_records: Path) -> None:
    dataset = read_dataset(coco_files(shapes_dir, "val"))
    of_files = list(samples.dataset_samples(dataset.files, dataset.table, dataset.pictures))
    of_records = list(samples.record_samples(_paths(f"{shapes_records}/val-*"), 100))
    assert len(of_files) == len(of_records) == 4
    for a, b in zip(of_files, of_records, strict=True):
        assert a.name == f"val-{b.name}"
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.category_map, b.category_map)
        np.testing.assert_array_equal(a.instance_map, b.instance_map)


def test_pictures_are_chosen_evenly(shapes_dir: Path) -> None:
    assert spread_evenly(range(10), 3) == [0, 3, 6]
    assert spread_evenly(range(2), 5) == [0, 1]
    assert spread_evenly([], 5) == []
    chosen = inspect_split(coco_files(shapes_dir, "val"), workers=1, samples=2).samples
    assert [picture.id for picture in chosen] == [200000, 200006]


def test_records_are_taken_from_every_file(shapes_records: Path) -> None:
    paths = _paths(f"{shapes_records}/train-*")
    names = [sample.name for sample in samples.record_samples(paths, 4)]
    assert len(names) == 4
    firsts = [next(samples.record_samples([path], 1)).name for path in paths]
    assert set(firsts[:2]) <= set(names)


def test_unreadable_pictures_are_skipped_with_a_warning(
    shapes_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(shapes_dir, tmp_path / "data"))
    files = coco_files(root, "val")
    dataset = read_dataset(files)
    broken, missing, apart, good = sorted(files.image_dir.iterdir())
    broken.write_bytes(broken.read_bytes()[:600])
    missing.unlink()
    Image.new("RGB", (31, 17)).save(apart)
    drawn = list(samples.dataset_samples(files, dataset.table, dataset.pictures))
    assert [sample.name for sample in drawn] == [f"val-{int(good.stem)}"]
    warnings = capsys.readouterr().err
    assert all(path.name in warnings for path in (broken, missing, apart))


def test_only_the_damaged_record_is_skipped(
    shapes_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.tfrecord"
    whole = list(read_records(_paths(f"{shapes_records}/train-*")[0]))
    with TFRecordWriter(path) as writer:
        for record in (b"\x07 none", *whole[1:]):
            writer.write(record)
    drawn = [sample.name for sample in samples.record_samples([path], len(whole))]
    assert len(drawn) == len(whole) - 1
    assert f"Record 0 of {path} is not drawn" in capsys.readouterr().err.replace("\n", " ")


def test_only_the_damaged_shard_is_skipped(
    shapes_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(shapes_records, tmp_path / "records"))
    paths = _paths(f"{folder}/train-*")
    paths[0].write_bytes(paths[0].read_bytes()[:100])
    assert len(list(samples.record_samples(paths, 3))) == 2
    assert paths[0].name in capsys.readouterr().err


def test_a_picture_is_turned_by_exif_if_its_mask_is_turned(shapes_dir: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shapes_dir, tmp_path / "data"))
    files = coco_files(root, "val")
    dataset = read_dataset(files)
    path = files.image_dir / dataset.pictures[0].file_name
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # viewers turn it clockwise
    with Image.open(path) as opened:
        upright = np.asarray(opened)
        opened.transpose(Image.Transpose.ROTATE_90).save(path, "PNG", exif=exif)
    sample = next(samples.dataset_samples(files, dataset.table, dataset.pictures))
    np.testing.assert_array_equal(sample.image, upright)


def _orient(picture: Path, mask: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    with Image.open(picture) as opened:
        opened.save(picture, "PNG", exif=exif)


def _deepen(picture: Path, mask: Path) -> None:
    with Image.open(picture) as opened:
        grey = np.asarray(opened).mean(-1).astype(np.uint16)
    Image.fromarray(grey * 16 + 7).save(picture, "PNG")


def _to_tiff(picture: Path, mask: Path) -> None:
    with Image.open(picture) as opened:
        opened.save(picture, "TIFF")


def _exchange(picture: Path, mask: Path) -> None:
    with Image.open(mask) as opened:
        Image.fromarray(np.ascontiguousarray(np.asarray(opened)[..., ::-1])).save(mask)


@pytest.mark.parametrize("change", [_orient, _deepen, _to_tiff, _exchange])
@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_samples_of_files_show_what_records_store(
    change: Callable[[Path, Path], None], exif: Exif, shapes_dir: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(shapes_dir, tmp_path / "data"))
    files = replace(coco_files(root, "val"), exif=exif)
    dataset = read_dataset(files)
    plain = next(samples.dataset_samples(files, dataset.table, dataset.pictures))
    first = dataset.pictures[0]
    change(files.image_dir / first.file_name, files.panoptic_masks / first.mask_name)
    of_files = next(samples.dataset_samples(files, dataset.table, dataset.pictures))
    summary = convert(ConversionPlan(files, tmp_path / "records", 1), dataset, workers=1)
    assert sum(summary.notes.values()) == 1
    of_records = next(samples.record_samples(_paths(str(tmp_path / "records" / "val-*")), 1))
    for name in ("image", "category_map", "instance_map"):
        np.testing.assert_array_equal(getattr(of_files, name), getattr(of_records, name))
    np.testing.assert_array_equal(of_files.category_map, plain.category_map)
    turned = change is _orient and exif == "apply"
    expected = np.rot90(plain.image, 2) if turned else plain.image
    assert np.abs(of_files.image.mean(-1) - expected.mean(-1)).max() < 1  # the mean of colours, rounded down


def test_small_pictures_are_enlarged_by_whole_factors(shapes_dir: Path) -> None:
    dataset = read_dataset(coco_files(shapes_dir, "val"))
    sample = next(samples.dataset_samples(dataset.files, dataset.table, dataset.pictures))
    large = samples.enlarge(sample)
    factor = large.image.shape[0] // sample.image.shape[0]
    assert factor > 1
    assert large.image.shape[:2] == large.category_map.shape == tuple(factor * n for n in sample.category_map.shape)
    np.testing.assert_array_equal(large.category_map[::factor, ::factor], sample.category_map)
    np.testing.assert_array_equal(large.instance_map[1::factor, 1::factor], sample.instance_map)
    assert samples.enlarge(large) is large


def test_names_of_drawings_are_valid_file_names(tmp_path: Path) -> None:
    """The source id of a record can be any text."""
    path = samples.save_drawing(Image.new("RGB", (2, 2)), tmp_path, "../../a b\0")
    assert path.parent == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == [".._.._a_b_.png"]


def test_stuff_is_drawn_in_its_categorys_colour(tmp_path: Path) -> None:
    table = CategoryTable.from_list([{"id": 3, "name": "sand", "isthing": 0, "color": [200, 100, 40]}], "test")
    sample = samples.Sample("s", np.zeros((480, 480, 3), np.uint8), np.full((480, 480), 3), np.zeros((480, 480), int))
    (path,) = samples.draw_samples([sample], table, tmp_path)
    with Image.open(path) as drawn:
        assert drawn.getpixel((2, 2)) == (100, 50, 20)  # half of the colour over black
