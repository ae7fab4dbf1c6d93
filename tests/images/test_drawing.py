from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from panoptic_cli.categories import CategoryTable
from panoptic_cli.images.contact_sheet import contact_sheet
from panoptic_cli.images.drawing import draw_panoptic, instance_color

TABLE = CategoryTable.from_list(
    [
        {"id": 5, "name": "cat", "isthing": 1, "color": [200, 40, 40]},
        {"id": 190, "name": "a stuff with a rather long name", "isthing": 0, "color": [30, 90, 220]},
    ],
    "test",
)


def scene(height: int = 120, width: int = 160) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture with stuff above, void below, and two touching cats in the middle."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    category = np.zeros((height, width), np.int32)
    instance = np.zeros_like(category)
    category[: height // 2] = 190
    rows = np.s_[height // 4 : 3 * height // 4]
    category[rows, width // 4 : 3 * width // 4] = 5
    instance[rows, width // 4 : width // 2] = 3
    instance[rows, width // 2 : 3 * width // 4] = 8
    return image, category, instance


def boundary(category: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Finds instance pixels next to a pixel of another region, one by one."""
    height, width = category.shape
    result = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                v, u = y + dy, x + dx
                if 0 <= v < height and 0 <= u < width and instance[y, x]:
                    result[y, x] |= (category[v, u], instance[v, u]) != (category[y, x], instance[y, x])
    return result


def test_alpha_0_returns_the_picture() -> None:
    image, category, instance = scene()
    drawn = draw_panoptic(image, category, instance, TABLE, scores={3: 0.9}, alpha=0)
    assert drawn.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(drawn), image)
    shown = np.asarray(draw_panoptic(image, category, instance, TABLE, scores={3: 0.9}, alpha=0.01))
    assert (shown != image).any()


def test_stuff_gets_its_colour_and_instances_differ_and_void_is_unchanged() -> None:
    image, category, instance = scene()
    drawn = np.asarray(draw_panoptic(image, category, instance, TABLE, alpha=1, outlines=False, labels=False))
    assert (drawn[category == 190] == (30, 90, 220)).all()
    np.testing.assert_array_equal(drawn[category == 0], image[category == 0])
    shades = [np.unique(drawn[instance == number], axis=0) for number in (3, 8)]
    assert [len(shade) for shade in shades] == [1, 1]
    assert np.abs(shades[0].astype(int) - shades[1]).max() >= 20


def test_colours_are_blended_by_alpha() -> None:
    image, category, instance = scene()
    drawn = np.asarray(draw_panoptic(image, category, instance, TABLE, alpha=0.25, outlines=False, labels=False))
    expected = 0.75 * image + 0.25 * np.array((30, 90, 220))
    # Half a level for rounding to integers, a little more for float32.
    np.testing.assert_allclose(drawn[category == 190], expected[category == 190], atol=0.501)


def test_many_instances_of_one_class_all_differ() -> None:
    for color in ((200, 40, 40), (0, 0, 0), (255, 255, 255), (128, 128, 128)):
        shades = [instance_color(color, rank) for rank in range(100)]
        assert len(set(shades)) == 100
        assert shades[0] == color
        neighbours = np.abs(np.diff(np.array(shades), axis=0)).max(1)
        assert neighbours.min() >= 20


def test_outlines_are_only_on_the_boundaries_of_instances() -> None:
    image, category, instance = scene()
    plain = np.asarray(draw_panoptic(image, category, instance, TABLE, labels=False, outlines=False))
    outlined = np.asarray(draw_panoptic(image, category, instance, TABLE, labels=False))
    edge = boundary(category, instance)
    np.testing.assert_array_equal((plain != outlined).any(-1) & ~edge, np.zeros_like(edge))
    for number in (3, 8):  # one tone each, in contrast to the surface
        tone = np.unique(outlined[edge & (instance == number)], axis=0)
        assert len(tone) == 1
        assert np.abs(tone[0].astype(int) - outlined[(instance == number) & ~edge].mean(0)).max() > 60


def test_outlines_grow_with_the_picture() -> None:
    image, category, instance = scene(1200, 1600)
    drawn = np.asarray(draw_panoptic(image * 0, category, instance, TABLE, alpha=1e-3, labels=False))
    assert drawn[600, :600].any(-1).sum() == 3  # the line at the left side of the first cat
    assert not drawn[instance == 0].any()


@pytest.mark.parametrize("size", [(480, 640), (96, 128), (20, 30), (1500, 1100), (300, 24), (1, 1)])
def test_labels_stay_inside_and_grow_with_the_picture(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    plates, texts = [], []
    rectangle, text = ImageDraw.ImageDraw.rectangle, ImageDraw.ImageDraw.text

    def record_plate(self: ImageDraw.ImageDraw, box: tuple[int, ...], **kwargs: object) -> None:
        plates.append(box)
        rectangle(self, box, **kwargs)  # type: ignore[arg-type]

    def record_text(self: ImageDraw.ImageDraw, place: tuple[int, int], content: str, **kwargs: object) -> None:
        texts.append((content, self.textbbox(place, content, font=kwargs["font"])))  # type: ignore[arg-type]
        text(self, place, content, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", record_plate)
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record_text)
    image, category, instance = scene(*size)
    instance[-1, -1], category[-1, -1] = 9, 5  # in the corner
    drawn = draw_panoptic(image, category, instance, TABLE, scores={3: 0.934, 8: 1.0})
    assert drawn.size == (size[1], size[0])
    for (x0, y0, x1, y1), (_, (left, top, right, bottom)) in zip(plates, texts, strict=True):
        assert 0 <= x0 < x1 < size[1]
        assert 0 <= y0 < y1 < size[0]
        assert x0 <= left < right <= x1 + 1  # the text does not leave its plate
        assert y0 <= top < bottom <= y1 + 1
    heights = [y1 - y0 for _, y0, _, y1 in plates]
    if size == (480, 640):
        assert {content for content, _ in texts} == {"cat 93%", "cat 100%", "a stuff with a rather long name"}
        assert all(10 <= height <= 25 for height in heights)
    if size == (1500, 1100):
        assert all(25 <= height <= 60 for height in heights)
    for place, (x0, y0, x1, y1) in enumerate(plates):
        for u0, v0, u1, v1 in plates[:place]:
            assert x1 < u0 or u1 < x0 or y1 < v0 or v1 < y0, "two labels cover each other"


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_labels_are_legible_on_any_background(grey: int) -> None:
    _, category, instance = scene(480, 640)
    image = np.full((480, 640, 3), grey, np.uint8)
    arguments = (image, category * (instance > 0), instance, TABLE)
    labelled = np.asarray(draw_panoptic(*arguments, alpha=1e-3, outlines=False)).astype(int)
    around = labelled[225:256, 160:320, 0]  # the label of the left cat is in its middle
    assert around.max() >= 230  # white letters
    assert around.min() <= 90  # on a dark plate
    letters = (around >= 200).sum() if grey < 255 else (around <= 90).sum()
    assert 30 <= letters <= 1000, "this is not text"


def test_an_unknown_category_is_grey_and_labelled_with_its_number() -> None:
    image, category, instance = scene()
    category[category == 190] = 77
    drawn = np.asarray(draw_panoptic(image, category, instance, TABLE, alpha=1, outlines=False, labels=False))
    assert len(np.unique(drawn[category == 77], axis=0)) == 1
    named = {"id": 77, "name": "category 77", "isthing": 0, "color": [160, 160, 160]}
    known = CategoryTable.from_list([*TABLE.to_list(), named], "test")
    expected = np.asarray(draw_panoptic(image, category, instance, known))
    np.testing.assert_array_equal(np.asarray(draw_panoptic(image, category, instance, TABLE)), expected)


def test_a_picture_without_segments_is_unchanged() -> None:
    image, category, instance = scene()
    drawn = draw_panoptic(image, category * 0, instance * 0, TABLE)
    np.testing.assert_array_equal(np.asarray(drawn), image)


def test_wrong_shapes_and_types_are_refused() -> None:
    image, category, instance = scene()
    with pytest.raises(ValueError, match="do not fit"):
        draw_panoptic(image, category[1:], instance, TABLE)
    with pytest.raises(ValueError, match="uint8"):
        draw_panoptic(image.astype(np.float32), category, instance, TABLE)
    with pytest.raises(ValueError, match="alpha"):
        draw_panoptic(image, category, instance, TABLE, alpha=1.5)


def test_contact_sheet_keeps_order_and_aspect() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    pictures = (Image.new("RGB", (400, 100 + 100 * place), color) for place, color in enumerate(colors))
    sheet = contact_sheet(pictures, columns=2, cell=(100, 80), gap=10)
    assert sheet.size == (2 * 110 + 10, 3 * 90 + 10)
    pixels = np.asarray(sheet)
    for place, color in enumerate(colors):
        row, column = divmod(place, 2)
        y, x = 10 + 90 * row, 10 + 110 * column
        assert tuple(pixels[y + 40, x + 50]) == color
        shown = (pixels[y : y + 80, x : x + 100] == color).all(-1)
        scale = min(100 / 400, 80 / (100 + 100 * place))
        assert shown.any(0).sum() == pytest.approx(400 * scale, abs=1)
        assert shown.any(1).sum() == pytest.approx((100 + 100 * place) * scale, abs=1)


def test_contact_sheet_of_one_picture_or_none() -> None:
    sheet = contact_sheet([Image.new("L", (10, 12))], columns=4, cell=(20, 20), gap=0)
    assert sheet.size == (10, 12)  # no larger than its content
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(ValueError, match="columns"):
        contact_sheet([Image.new("L", (1, 1))], columns=0)
