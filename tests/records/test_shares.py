"""`--val-share`: one annotation file becomes train and val."""

from __future__ import annotations

import pytest

from panoptic_cli.coco.dataset import PanopticDataset, Picture, read_dataset
from panoptic_cli.coco.layout import coco_files
from panoptic_cli.demo import shapes
from panoptic_cli.errors import DataError
from panoptic_cli.records.shares import Share


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> PanopticDataset:
    folder = tmp_path_factory.mktemp("shares")
    shapes.generate(folder, train=150, val=1)
    return read_dataset(coco_files(folder, "train"))


def _parts(dataset: PanopticDataset, share: float, seed: int = 0) -> tuple[list[Picture], list[Picture]]:
    train, val = (list(Share(name, share, seed).of(dataset).pictures) for name in ("train", "val"))
    return train, val


def test_every_picture_is_in_one_part_and_stays_there(pictures: PanopticDataset) -> None:
    train, val = _parts(pictures, 0.2)
    assert sorted((*train, *val), key=lambda picture: picture.id) == list(pictures.pictures)
    assert 15 < len(val) < 45  # 30 of 150 are expected, with a standard deviation of 4.9; this is three of them
    fewer = PanopticDataset(pictures.files, pictures.table, pictures.pictures[20:], ())
    assert _parts(fewer, 0.2) == tuple([p for p in part if p in fewer.pictures] for part in (train, val))
    larger = _parts(pictures, 0.4)[1]
    assert all(picture in larger for picture in val)
    assert _parts(pictures, 0.2, seed=1)[1] != val


def test_no_part_is_empty(pictures: PanopticDataset) -> None:
    few = PanopticDataset(pictures.files, pictures.table, pictures.pictures[:5], ())
    for share, expected in ((1e-9, (4, 1)), (1 - 1e-9, (1, 4))):
        assert tuple(map(len, _parts(few, share))) == expected
    with pytest.raises(DataError, match="fewer than two usable pictures"):
        _parts(PanopticDataset(pictures.files, pictures.table, pictures.pictures[:1], ()), 0.5)
