"""What a report shows besides the figures: which categories are taken for which, and the worst and best pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image

from panoptic_cli.categories import Category, CategoryTable
from panoptic_cli.evaluation.panoptic_quality import PictureQuality, Segment
from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.records import schema

_WIDEST = 480  # pixels of a picture in the report
_NO_PICTURE = 48  # grey behind maps that have no picture
_Item = TypeVar("_Item")


class Confusion:
    """Pixels by category of the ground truth and of the prediction.

    Pixels that are unlabelled or crowd in the ground truth have no right answer and are left out.

    Args:
        table: the categories.

    Attributes:
        pixels: int64 [C + 1, C + 1], by the place of the ground truth's category in the table (rows, from 1; row 0
            stays empty) and of the predicted one (columns; 0 is void).
    """

    def __init__(self, table: CategoryTable) -> None:
        self.table = table
        size = len(table.categories) + 1
        self.pixels = np.zeros((size, size), np.int64)

    def add(self, quality: PictureQuality) -> None:
        """Adds the pixels of one picture."""
        rows = quality.gt_classes[~quality.crowd] + 1
        columns = np.concatenate(([0], quality.pred_classes + 1))
        np.add.at(self.pixels, (rows[:, None], columns), quality.overlap[1:][~quality.crowd])

    def merge(self, other: Confusion) -> None:
        """Adds what another one counted over the same table."""
        self.pixels += other.pixels

    def most_frequent(self, limit: int) -> list[tuple[Category, Category | None, int, float]]:
        """Returns the largest confusions.

        Returns:
            (true category, predicted category or None for void, pixels, their share of the true category's
            pixels in 0..1), most pixels first.
        """
        wrong = self.pixels.copy()
        np.fill_diagonal(wrong, 0)
        totals = self.pixels.sum(1)
        columns = len(wrong)
        places = [p for p in np.argsort(-wrong, axis=None, kind="stable")[:limit].tolist() if wrong.flat[p]]
        categories: list[Category | None] = [None, *self.table.categories]
        return [
            (self.table.categories[p // columns - 1], categories[p % columns], int(wrong.flat[p]), share)
            for p in places
            for share in [float(wrong.flat[p] / totals[p // columns])]
        ]

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Returns pixels: {"things", "stuff"} of the ground truth by {"right", "things", "stuff", "void"} predicted.

        "things" and "stuff" are wrong categories of that kind.
        """
        is_thing = np.array([False, *(c.isthing for c in self.table.categories)])
        is_stuff = ~is_thing
        is_stuff[0] = False
        right = self.pixels.diagonal()
        kinds = {"things": is_thing, "stuff": is_stuff}
        found = {}
        for name, rows in kinds.items():
            part, hits = self.pixels[rows], int(right[rows].sum())
            counts = {kind: int(part[:, columns].sum()) for kind, columns in kinds.items()}
            counts[name] -= hits
            found[name] = {"right": hits, **counts, "void": int(part[:, 0].sum())}
        return found


@dataclass(frozen=True)
class ShownPicture:
    """One picture of the report; each view is a JPEG.

    Attributes:
        image_id: the data set's id.
        pq: over all of its segments, 0..1.
        picture: None where there was none to show.
        truth: the ground truth's segments, drawn over the picture or alone.
        prediction: the predicted segments, likewise.
    """

    image_id: int | str
    pq: float
    picture: bytes | None
    truth: bytes
    prediction: bytes


@dataclass
class ReportData:
    """Collects what a report shows, picture by picture; memory does not grow with their number.

    Args:
        table: the categories.
        keep: how many of the worst and of the best pictures to show.

    Attributes:
        unscored: pictures without any segment that counts, which have no PQ of their own.
    """

    table: CategoryTable
    keep: int = 6
    unscored: int = 0
    confusion: Confusion = field(init=False)
    _shown: list[ShownPicture] = field(default_factory=list)  # ascending, at most twice `keep`

    def __post_init__(self) -> None:
        self.confusion = Confusion(self.table)

    def add(
        self,
        image_id: int | str,
        image: Callable[[], np.ndarray | None],
        gt_map: np.ndarray,
        gt_segments: Sequence[Segment],
        pred_map: np.ndarray,
        pred_segments: Sequence[Segment],
        quality: PictureQuality,
    ) -> None:
        """Adds one picture, which is drawn only if it is one of the worst or best so far.

        Args:
            image_id: the data set's id.
            image: gives uint8 [H, W, 3], or None where there is no picture; called only if it is drawn.
            gt_map: integer [H, W], segment ids.
            gt_segments: its segments.
            pred_map: integer [H, W], segment ids.
            pred_segments: its segments.
            quality: what PanopticQuality.add returned.
        """
        self.confusion.add(quality)
        pq, full = quality.pq, len(self._shown) == 2 * self.keep
        if pq is None:
            self.unscored += 1
        elif not full or pq < self._shown[self.keep - 1].pq or pq > self._shown[self.keep].pq:
            self.add_picture(image_id, pq, image(), gt_map, gt_segments, pred_map, pred_segments)

    def add_picture(
        self,
        image_id: int | str,
        pq: float,
        image: np.ndarray | None,
        gt_map: np.ndarray,
        gt_segments: Sequence[Segment],
        pred_map: np.ndarray,
        pred_segments: Sequence[Segment],
    ) -> None:
        """Draws one picture and keeps it if it is one of the worst or best.

        Args:
            image_id: see `add`.
            pq: of the picture, 0..1.
            image: uint8 [H, W, 3], or None. One of another size than the maps is left out.
            gt_map: see `add`, like the rest.
            gt_segments: -
            pred_map: -
            pred_segments: -
        """
        if image is not None and image.shape[:2] != gt_map.shape:
            image = None
        self._shown.append(
            ShownPicture(
                image_id,
                pq,
                None if image is None else _jpeg(Image.fromarray(image)),
                _jpeg(self._draw(image, gt_map, gt_segments)),
                _jpeg(self._draw(image, pred_map, pred_segments)),
            )
        )
        self._shown.sort(key=lambda shown: shown.pq)
        if len(self._shown) > 2 * self.keep:
            del self._shown[self.keep]

    def worst_and_best(self, scored: Sequence[tuple[float, _Item]]) -> list[tuple[float, _Item]]:
        """Returns those of (pq, anything) that the report would keep, worst first."""
        ascending = sorted(scored, key=lambda item: item[0])
        return ascending if len(ascending) <= 2 * self.keep else ascending[: self.keep] + ascending[-self.keep :]

    @property
    def worst(self) -> list[ShownPicture]:
        """The worst pictures, worst first."""
        return self._shown[: self._half]

    @property
    def best(self) -> list[ShownPicture]:
        """The best pictures, best first; none of them is among the worst."""
        return self._shown[self._half :][::-1]

    @property
    def _half(self) -> int:
        return (len(self._shown) + 1) // 2

    def _draw(self, image: np.ndarray | None, id_map: np.ndarray, segments: Sequence[Segment]) -> Image.Image:
        ids, places = np.unique(id_map, return_inverse=True)
        categories = {s.id: s.category_id for s in segments}
        things = {c.id for c in self.table.things}
        category_of = np.array([categories.get(i, 0) for i in ids.tolist()], np.int64)
        instance_of = np.where(np.isin(category_of, list(things)), np.arange(1, len(ids) + 1), 0)
        places = places.reshape(id_map.shape)
        background = np.full((*id_map.shape, 3), _NO_PICTURE, np.uint8) if image is None else image
        alpha = 1.0 if image is None else 0.6
        return draw_panoptic(background, category_of[places], instance_of[places], self.table, alpha=alpha)


def picture_of_record(record: bytes) -> np.ndarray | None:
    """Decodes the picture of a serialized tf.train.Example to uint8 [H, W, 3]; None where it holds none."""
    content = schema.decode_example(record).get(schema.IMAGE_ENCODED)
    return decode_picture(content[0]) if content else None


def decode_picture(content: bytes) -> np.ndarray | None:
    """Decodes a picture file, as it lies, to uint8 [H, W, 3]; None where it cannot be read."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((_WIDEST, _WIDEST))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return stream.getvalue()
