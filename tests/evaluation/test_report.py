"""The HTML report, and what it is made of."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panoptic_cli.commands.main import run
from PIL import Image

from panoptic_cli.categories import CategoryTable
from panoptic_cli.evaluation.category_figures import category_figures
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.evaluation.report import report_html
from panoptic_cli.evaluation.report_data import ReportData
from panoptic_cli.results.prediction import Segment

TABLE = CategoryTable.from_list(
    [
        {"id": 7, "name": "cat", "isthing": 1},
        {"id": 3, "name": "dog & <b>", "isthing": 1},
        {"id": 200, "name": "sky", "isthing": 0},
    ],
    "test",
)


class Page(HTMLParser):
    """Checks that tags close in the order they were opened, and collects what the page shows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.images: list[dict[str, Any]] = []
        self.references: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "rect"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        self.references += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += " " + data


def add(data: ReportData, quality: PanopticQuality, image_id: int, hit: int, calls: list[int] | None = None) -> None:
    """A picture of ten cat pixels, of which the prediction has `hit`; the others are dog."""
    truth = np.full((1, 10), 5)
    guess = np.where(np.arange(10) < hit, 1, 2)[None]
    gt = [Segment(5, 7)]
    pred = [s for s in (Segment(1, 7), Segment(2, 3)) if (guess == s.id).any()]
    matched = quality.add(truth, gt, guess, pred)

    def picture() -> np.ndarray:
        if calls is not None:
            calls.append(image_id)
        return np.full((1, 10, 3), 200, np.uint8)

    data.add(image_id, picture, truth, gt, guess, pred, matched)


def test_only_the_worst_and_the_best_are_kept() -> None:
    data, quality = ReportData(TABLE, keep=2), PanopticQuality(TABLE)
    calls: list[int] = []
    for image_id, hit in enumerate([6, 7, 8, 7, 9, 7, 10, 0, 7, 8, 7]):
        add(data, quality, image_id, hit, calls)
    assert [(p.image_id, p.pq) for p in data.worst] == [(7, 0.0), (0, pytest.approx(0.6 / 1.5))]
    assert [(p.image_id, p.pq) for p in data.best] == [(6, 1.0), (4, pytest.approx(0.9 / 1.5))]
    assert len(calls) < 11  # the others are not even decoded
    for shown in (*data.worst, *data.best):
        assert shown.picture is not None
        for view in (shown.picture, shown.truth, shown.prediction):
            assert Image.open(io.BytesIO(view)).size == (10, 1)


def test_few_pictures_are_shown_once() -> None:
    data, quality = ReportData(TABLE, keep=6), PanopticQuality(TABLE)
    for image_id, hit in enumerate((10, 9, 0)):
        add(data, quality, image_id, hit)
    assert [p.image_id for p in data.worst] == [2, 1]
    assert [p.image_id for p in data.best] == [0]


def test_confusion_by_hand() -> None:
    data = ReportData(TABLE)
    quality = PanopticQuality(TABLE)
    truth = np.array([[0, 1, 1, 1, 2, 2, 3, 3, 3, 4]])
    guess = np.array([[5, 5, 6, 0, 6, 7, 7, 7, 6, 5]])
    gt = [Segment(1, 7), Segment(2, 3), Segment(3, 200), Segment(4, 7, iscrowd=True)]
    pred = [Segment(5, 7), Segment(6, 3), Segment(7, 200)]
    data.confusion.add(quality.add(truth, gt, guess, pred))
    data.confusion.merge(data.confusion)
    assert [(t.id, p and p.id, pixels, share) for t, p, pixels, share in data.confusion.most_frequent(9)] == [
        (7, None, 2, pytest.approx(1 / 3)),
        (7, 3, 2, pytest.approx(1 / 3)),
        (3, 200, 2, pytest.approx(1 / 2)),
        (200, 3, 2, pytest.approx(1 / 3)),
    ]
    assert data.confusion.by_kind() == {
        "things": {"right": 4, "things": 2, "stuff": 2, "void": 2},
        "stuff": {"right": 4, "things": 2, "stuff": 0, "void": 0},
    }


def test_the_page_of_a_model() -> None:
    data, quality = ReportData(TABLE, keep=1), PanopticQuality(TABLE)
    for image_id, hit in enumerate((3, 8)):
        add(data, quality, image_id, hit)
    precision = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"), 0.25) | {"APl": None}
    semantic = {"mIoU": 0.5, "pixel_accuracy": None, "n": 2}
    figures = {"panoptic": quality.result(), "box": precision, "mask": precision, "semantic": semantic}
    per_class = category_figures(figures["panoptic"], TABLE, {7: 0.125, 3: None}, {7: 0.375, 3: None})
    page = Page(report_html("runs/<x>", {**figures, "per_class": per_class, "images": 2, "step": 1200}, data))
    assert "runs/<x>" in page.text
    assert "2 images · step 1,200" in page.text
    assert "dog & <b>" in page.text
    assert "25.00" in page.text
    assert "n/a" in page.text
    assert re.search(r"cat\s+thing\s+[\d. ]+ 12\.5\s+37\.5\s", page.text)  # after PQ, SQ and RQ
    assert re.search(r"dog & <b>\s+thing\s+[\d. ]+ n/a\s+n/a\s", page.text)
    assert "1 category does not occur in these pictures" in page.text  # sky
    assert [i["alt"] for i in page.images] == [
        f"{view} of image {image_id}" for image_id in (0, 1) for view in ("picture", "ground truth", "prediction")
    ]


def test_nothing_at_all_gives_a_page_too() -> None:
    data, quality = ReportData(TABLE), PanopticQuality(TABLE)
    void = np.zeros((2, 2), int)
    data.add(1, lambda: None, void, [], void, [], quality.add(void, [], void, []))
    page = Page(report_html("x", {"panoptic": quality.result(), "images": 1}, data))
    assert data.unscored == 1
    assert "n/a" in page.text
    assert "None: every labelled pixel has the right category." in page.text


@pytest.mark.shared
@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_writes_a_page_that_needs_nothing_else(
    shared: Path, coco100: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    folder = shared / "conformance" / "panoptic_quality"
    call = ["evaluate", "--predictions", str(folder / "pred.json"), "--workers", str(workers), "--json"]
    call += ["--panoptic-annotations", str(coco100 / "annotations" / "panoptic_val2017.json")]
    call += ["--panoptic-masks", str(coco100 / "panoptic_val2017"), "--image-dir", str(coco100 / "val2017")]
    assert run([*call, "--report", str(tmp_path / "report.html"), "--output", str(tmp_path / "out")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == figures
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert f"{100 * figures['panoptic']['All']['pq']:.2f}" in page.text
    assert len(page.images) == 3 * 12  # six worst, six best
    assert all(reference.startswith("data:image/jpeg;base64,") for reference in page.references)
    assert not re.search(r"https?:|@import|url\(", html)
    for image in page.images:
        Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).load()
    shown = [float(pq) for pq in re.findall(r"<b>PQ ([\d.]+)</b>", html)]
    assert shown[:6] == sorted(shown[:6])
    assert shown[6:] == sorted(shown[6:], reverse=True)
    assert shown[5] <= shown[11]


def test_wrong_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "--report", str(tmp_path)]) == 2
    assert "--report" in capsys.readouterr().err
    assert run(["evaluate", "--predictions", "p.json", "--image-dir", str(tmp_path / "no")]) == 2
    assert "--image-dir" in capsys.readouterr().err
    assert run(["evaluate", "--image-dir", str(tmp_path)]) == 2
    assert "--image-dir is for scoring a result file" in capsys.readouterr().err
