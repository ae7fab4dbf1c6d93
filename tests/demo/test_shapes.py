from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_cli.coco.dataset import read_dataset, require_sound
from panoptic_cli.coco.layout import find_splits
from panoptic_cli.demo import shapes
from panoptic_cli.errors import DataError
from panoptic_cli.images import masks, panoptic_png
from panoptic_cli.inspection.dataset import inspect_split


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes(generated: Path, tmp_path: Path) -> None:
    shapes.generate(tmp_path / "again", train=12, val=6, seed=1)
    assert _files(tmp_path / "again") == _files(generated)
    shapes.generate(tmp_path / "other", train=1, val=1, seed=2)
    name = "train2017/000000100000.jpg"
    assert (tmp_path / "other" / name).read_bytes() != (generated / name).read_bytes()


@pytest.mark.usefixtures("harmless_sigterm")
def test_sigterm_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_generate_split", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        shapes.generate(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_does_not_depend_on_how_many_there_are(generated: Path, tmp_path: Path) -> None:
    shapes.generate(tmp_path / "few", train=4, val=1, seed=1)
    whole = _files(generated)
    for name, data in _files(tmp_path / "few").items():
        if not name.startswith("annotations"):
            assert whole[name] == data


def test_the_inspector_finds_no_problem(generated: Path) -> None:
    void = total = 0
    for files in find_splits(generated):
        report = inspect_split(files, workers=1)
        assert report.findings.to_list() == []
        assert report.counts["pictures"] == {"train": 12, "val": 6}[files.name]
        void += report.pixels[0]
        total += sum(report.pixels.values())
    assert 0 < void < 0.1 * total


def test_it_has_what_a_data_set_may_have(generated: Path) -> None:
    train = read_dataset(find_splits(generated, ["train"])[0])
    require_sound(train)
    ids = [c.id for c in train.table.categories]
    assert ids != sorted(ids)
    assert len(train.table.things) == len(train.table.stuff) == 3
    assert any(not picture.objects for picture in train.pictures)
    crowds = [o for p in train.pictures for o in p.objects or () if o.is_crowd]
    assert crowds
    assert all(isinstance(o.segmentation["counts"], list) for o in crowds)
    assert any(s.is_crowd for p in train.pictures for s in p.segments)
    assert all(96 <= side <= 160 for p in train.pictures for side in (p.width, p.height))
    assert len({(p.width, p.height) for p in train.pictures}) > 6
    value = json.loads((generated / "annotations" / "panoptic_train2017.json").read_text())
    assert [i["id"] for i in value["images"]] != [a["image_id"] for a in value["annotations"]]


def test_things_stay_mostly_visible(generated: Path) -> None:
    files = find_splits(generated, ["train"])[0]
    for picture in read_dataset(files).pictures:
        ids = panoptic_png.read_segment_ids(files.panoptic_masks / picture.mask_name)
        things = [s for s in picture.segments if s.category_id in (shapes.DISC, shapes.SQUARE, shapes.TRIANGLE)]
        # Things are painted in the order of both lists, so they pair up.
        for segment, annotation in zip(things, picture.objects or (), strict=True):
            mask = masks.rasterize(annotation.segmentation, picture.height, picture.width).astype(bool)
            visible = ids == segment.id
            assert not (visible & ~mask).any()
            assert visible.sum() >= 0.6 * mask.sum()
            assert annotation.area == mask.sum()


def test_classes_differ_in_colour(generated: Path) -> None:
    """The nearest mean colour tells the class of most pixels: a tiny network can learn it."""
    files = find_splits(generated, ["train"])[0]
    sums: dict[int, list[np.ndarray]] = {}
    for picture in read_dataset(files).pictures:
        image = np.asarray(Image.open(files.image_dir / picture.file_name)).astype(np.float32)
        ids = panoptic_png.read_segment_ids(files.panoptic_masks / picture.mask_name)
        for segment in picture.segments:
            sums.setdefault(segment.category_id, []).append(image[ids == segment.id])
    pixels = {category: np.concatenate(parts) for category, parts in sums.items()}
    assert len(pixels) == 6
    centers = np.stack([values.mean(axis=0) for values in pixels.values()])
    for place, values in enumerate(pixels.values()):
        nearest = ((values[:, None] - centers) ** 2).sum(axis=-1).argmin(axis=-1)
        assert (nearest == place).mean() > 0.9


def test_other_data_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "panoptic_val2017.json").write_text("real")
    with pytest.raises(DataError, match="was not generated"):
        shapes.generate(tmp_path, train=1, val=1)
    assert (tmp_path / "annotations" / "panoptic_val2017.json").read_text() == "real"
