"""Predicting pictures: what is done is kept, whatever ends the prediction."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from predictions import detections_of, prediction_of

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.image_info import ListedPicture, choose_image_ids
from panoptic_cli.errors import DataError
from panoptic_cli.images.orientation import Exif
from panoptic_cli.images.pictures import read_picture
from panoptic_cli.inference import pictures as pictures_module
from panoptic_cli.inference.pictures import PredictionSummary, predict_pictures
from panoptic_cli.results import coco_files
from panoptic_cli.results.coco_files import PredictionWriter
from panoptic_cli.results.prediction import Prediction

TABLE = CategoryTable.from_list([{"id": 5, "name": "cat", "isthing": 1}], "test")
NAMES = [f"{number}.bmp" for number in range(1, 13)]


class FakePredictor:
    """Finds one cat, as high as the picture's first value; `before` is called with the number of the picture."""

    table, score_threshold, accurate_jpeg = TABLE, 0.1, False

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self.before, self.seen = before, 0

    def predict_batch(self, pictures: Sequence[np.ndarray]) -> Iterator[Prediction]:
        for pixels in pictures:
            self.seen += 1
            self.before(self.seen)
            category = np.zeros(pixels.shape[:2], np.int32)
            category[: pixels[0, 0, 0]] = 5
            box = np.array([[0, 0, pixels[0, 0, 0], 8]])
            yield prediction_of(category, category > 0, TABLE, detections_of(box, [0.5], [5], [category > 0]))


def stop_at(number: int, error: BaseException) -> Callable[[int], None]:
    def before(seen: int) -> None:
        if seen == number:
            raise error

    return before


@pytest.fixture
def album(tmp_path: Path) -> list[Path]:
    (tmp_path / "album").mkdir()
    for place, name in enumerate(NAMES, start=1):
        Image.fromarray(np.full((16, 8, 3), place, np.uint8)).save(tmp_path / "album" / name)
    return [tmp_path / "album" / name for name in NAMES]


def predict(
    album: list[Path], output: Path, before: Callable[[int], None] = lambda number: None, **options: Any
) -> FakePredictor:
    predictor = FakePredictor(before)
    predict_pictures(predictor, choose_image_ids(album), output, **{"source": "ckpt-1", **options})
    return predictor


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_the_same_call_goes_on(
    album: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    predict(album, tmp_path / "whole")
    for expected, stop in ((4, 5), (7, 4)):
        with pytest.raises(type(error)):
            predict(album, tmp_path / "out", stop_at(stop, error), batch_size=2)
        assert f"{expected} of 12 pictures are done and kept in {tmp_path / 'out'}" in capsys.readouterr().err
        kept = json.loads((tmp_path / "out" / "pred.json").read_text())
        assert [image["id"] for image in kept["images"]] == list(range(1, expected + 1))
        assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == expected
        assert len(list((tmp_path / "out" / "overlay").iterdir())) == expected
    assert predict(album, tmp_path / "out").seen == 5
    assert "Going on after 7 of 12 pictures" in capsys.readouterr().err
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "out", "whole"]
    assert predict(album, tmp_path / "out").seen == 12  # it was finished, so this is a new prediction


def nothing(partial: Path) -> None:
    """Nothing more happens to the files."""


def half_a_line(partial: Path) -> None:
    with (partial / "journal.jsonl").open("ab") as stream:
        stream.write(b'[{"id": 6, "file_name"')


def a_png_lost_its_end(partial: Path) -> None:
    os.truncate(partial / "pred" / "3.png", 20)


def detections_lost_their_end(partial: Path) -> None:
    path = partial / "detections.json"
    os.truncate(path, path.stat().st_size - 3)


def finished(partial: Path) -> None:
    (partial / "pred.json").write_text("{}")


@pytest.mark.parametrize(
    ("accident", "lost"),
    [(nothing, 0), (half_a_line, 0), (a_png_lost_its_end, 3), (detections_lost_their_end, 1), (finished, 0)],
)
def test_a_killed_prediction_goes_on(
    album: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    accident: Callable[[Path], None],
    lost: int,
) -> None:
    def killed(number: int) -> None:
        if number == 6:
            shutil.copytree(tmp_path / ".out.partial", tmp_path / "killed" / ".out.partial")

    predict(album, tmp_path / "out", killed)
    accident(tmp_path / "killed" / ".out.partial")
    capsys.readouterr()
    assert predict(album, tmp_path / "killed" / "out").seen == 7 + lost
    assert f"Going on after {5 - lost} of 12 pictures" in capsys.readouterr().err
    assert contents(tmp_path / "killed") == {f"out/{name}": data for name, data in contents(tmp_path / "out").items()}


def test_a_full_disk_at_the_start_of_the_next_process_loses_nothing(
    album: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(number: int) -> None:
        if number == 6:
            shutil.copytree(tmp_path / ".out.partial", tmp_path / "killed" / ".out.partial")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    predict(album, tmp_path / "out", killed)
    monkeypatch.setattr(coco_files, "Journal", full)
    with pytest.raises(DataError, match="No space left on device"):
        predict(album, tmp_path / "killed" / "out")
    monkeypatch.undo()
    assert predict(album, tmp_path / "killed" / "out").seen == 7


@pytest.mark.parametrize(("left", "seen"), [(("out",), 7), (("out", ".out.partial"), 4)])
def test_what_is_kept_survives_a_kill_of_the_next_process(
    album: list[Path], tmp_path: Path, left: tuple[str, ...], seen: int
) -> None:
    def killed(number: int) -> None:
        if number == 4:
            for name in left:
                shutil.copytree(tmp_path / name, tmp_path / "killed" / name)

    with pytest.raises(KeyboardInterrupt):
        predict(album, tmp_path / "out", stop_at(6, KeyboardInterrupt()))
    predict(album, tmp_path / "out", killed)
    assert predict(album, tmp_path / "killed" / "out").seen == seen
    assert contents(tmp_path / "killed" / "out") == contents(tmp_path / "out")
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["out"]


@pytest.mark.usefixtures("harmless_sigterm")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_signals_keep_what_is_done(
    album: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: signal.Signals
) -> None:
    def again(*arguments: Any) -> None:
        os.kill(os.getpid(), end)
        move(*arguments)

    move = PredictionWriter._move_into
    monkeypatch.setattr(PredictionWriter, "_move_into", again)
    with pytest.raises(KeyboardInterrupt):
        predict(album, tmp_path / "out", lambda number: os.kill(os.getpid(), end) if number == 6 else None)
    monkeypatch.undo()
    assert predict(album, tmp_path / "out").seen == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "out"]


@pytest.mark.parametrize("other", [{"source": "ckpt-2"}, {"alpha": 0.1}])
def test_another_call_does_not_go_on(album: list[Path], tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict(album, tmp_path / "out", stop_at(5, KeyboardInterrupt()))
    assert predict(album, tmp_path / "out", **other).seen == 12
    assert not (tmp_path / "out" / "unfinished.json").exists()

    def killed(number: int) -> None:
        if number == 5:
            shutil.copytree(tmp_path / ".out.partial", tmp_path / "killed" / ".out.partial")

    predict(album, tmp_path / "out", killed)
    assert predict(album, tmp_path / "killed" / "out", **other).seen == 12
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["out"]


def test_earlier_results_are_replaced_only_by_finished_ones(album: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    predict(album, output)
    earlier = contents(output)
    broken = tmp_path / "album" / "99.bmp"
    broken.write_bytes(b"BM no more")
    predict([broken], output)
    assert contents(output) == earlier
    with pytest.raises(KeyboardInterrupt):
        predict(album[6:], output, stop_at(4, KeyboardInterrupt()))
    found = contents(output)
    assert {name: found[name] for name in earlier} == earlier
    assert len(json.loads((output / "unfinished" / "pred.json").read_text())["images"]) == 3
    assert predict(album[6:], output).seen == 3
    assert sorted(path.name for path in output.iterdir()) == ["detections.json", "overlay", "pred", "pred.json"]
    assert len(list((output / "pred").iterdir())) == 6


def test_nothing_done_leaves_nothing(album: list[Path], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict(album, tmp_path / "out", stop_at(1, KeyboardInterrupt()))
    assert [path.name for path in tmp_path.iterdir()] == ["album"]


@pytest.mark.parametrize(("exif", "turned"), [("apply", True), ("ignore", False)])
def test_pred_json_says_which_pictures_were_turned(tmp_path: Path, exif: str, turned: bool) -> None:
    data, paths = Image.Exif(), [tmp_path / "1.png", tmp_path / "2.png"]
    data[ExifTags.Base.Orientation] = 3
    pixels = Image.fromarray(np.full((16, 8, 3), 4, np.uint8))
    pixels.save(paths[0], exif=data)
    pixels.save(paths[1])
    predict(paths, tmp_path / "out", exif=exif)
    entries = json.loads((tmp_path / "out" / "pred.json").read_text())["annotations"]
    assert [entry.get("exif_applied", False) for entry in entries] == [turned, False]


def submit(
    album: list[Path], output: Path, before: Callable[[int], None] = lambda number: None, **options: Any
) -> tuple[PredictionSummary, int]:
    """Predicts listed pictures, whose ids are not those of their names, for a submission."""
    predictor = FakePredictor(before)
    listed = {path: ListedPicture(100 - place, path.name, (16, 8)) for place, path in enumerate(album)}
    ids = {path: picture.image_id for path, picture in listed.items()}
    archive = output / "panoptic_x_y_results.zip"
    summary = predict_pictures(
        predictor, ids, output, source="c", overlays=False, listed=listed, submission=archive, **options
    )
    return summary, predictor.seen


def test_a_submission_has_the_names_and_ids_of_the_list(album: list[Path], tmp_path: Path) -> None:
    summary, _ = submit(album, tmp_path / "out")
    assert (summary.done, summary.overlays) == (12, [])
    files = ["detections.json", "panoptic_x_y_results.zip", "pred", "pred.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    assert summary.submission == tmp_path / "out" / "panoptic_x_y_results.zip"
    content = json.loads((tmp_path / "out" / "pred.json").read_text())
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [
        (100 - place, name) for place, name in enumerate(NAMES)
    ]
    submit(album, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "out")  # nothing depends on time or place


def test_an_interrupted_submission_goes_on(
    album: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(album, tmp_path / "whole")

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit(album, tmp_path / "out", stop_at(5, KeyboardInterrupt()))
    with monkeypatch.context() as patched:
        patched.setattr(pictures_module, "write_submission", interrupted)
        with pytest.raises(KeyboardInterrupt):
            submit(album, tmp_path / "out")
    assert "12 of 12 pictures are done and kept" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.zip"))
    _, seen = submit(album, tmp_path / "out")
    assert seen == 0  # only the archive was missing
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_picture_that_fails_leaves_no_archive(album: list[Path], tmp_path: Path) -> None:
    Image.new("RGB", (9, 16)).save(album[3])
    summary, _ = submit(album, tmp_path / "out")
    assert list(summary.failed) == [str(album[3])]
    assert "it has 9 x 16 pixels, but is listed with 8 x 16" in summary.failed[str(album[3])]
    assert summary.done == 11
    assert summary.submission is None
    assert not list((tmp_path / "out").glob("*.zip"))


@pytest.mark.parametrize(
    ("orientation", "size", "exif", "turned"),
    [
        (6, (16, 8), "apply", False),
        (6, (8, 16), "ignore", True),
        (3, (16, 8), "apply", True),
        (3, (16, 8), "ignore", False),
    ],
)
def test_the_listed_size_decides_whether_a_picture_is_turned(
    tmp_path: Path, orientation: int, size: tuple[int, int], exif: Exif, turned: bool
) -> None:
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (16, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png", exif=data)
    expected = np.rot90(pixels, -1 if orientation == 6 else 2) if turned else pixels
    np.testing.assert_array_equal(read_picture(tmp_path / "1.png", exif, size=size), expected)
    with pytest.raises(DataError, match="is listed with 7 x 9"):
        read_picture(tmp_path / "1.png", exif, size=(9, 7))
