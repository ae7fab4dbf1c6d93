"""What a report shows besides the figures: confused categories, and the worst and best pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image

from panoptic_cli.categories import VOID_ID, CategoryTable
from panoptic_cli.evaluation.confusion import Confusion
from panoptic_cli.evaluation.panoptic_quality import PictureQuality
from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.images.pillow import decode_annotated, decode_picture
from panoptic_cli.records import schema
from panoptic_cli.results.prediction import Segment

_WIDEST = 480  # pixels of a picture in the report
_NO_PICTURE = 48  # grey behind maps without a picture
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class ShownPicture:
    """One picture of the report; each view is a JPEG.

    Attributes:
        image_id: the data set's id.
        pq: over all of its segments, 0..1.
        picture: the picture itself; None if there is none to show.
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
    """Collects what a report shows, picture by picture; the memory does not grow with their number.

    Args:
        table: the categories.
        keep: how many of the worst and of the best pictures to show.

    Attributes:
        unscored: number of pictures without a PQ, because no segment in them counts.
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
            image: returns uint8 [H, W, 3], or None if there is no picture; only called to draw it.
            gt_map: integer [H, W], segment ids.
            gt_segments: its segments.
            pred_map: integer [H, W], segment ids.
            pred_segments: its segments.
            quality: the result of PanopticQuality.add.
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
            image_id: the data set's id.
            pq: of the picture, 0..1.
            image: uint8 [H, W, 3], or None. It is not shown if its size is not that of the maps.
            gt_map: integer [H, W], segment ids.
            gt_segments: its segments.
            pred_map: integer [H, W], segment ids.
            pred_segments: its segments.
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
        """Returns the (pq, anything) pairs that the report would keep, worst first."""
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
        category_of = np.array([categories.get(i, VOID_ID) for i in ids.tolist()], np.int64)
        instance_of = np.where(np.isin(category_of, list(things)), np.arange(1, len(ids) + 1), 0)
        places = places.reshape(id_map.shape)
        background = np.full((*id_map.shape, 3), _NO_PICTURE, np.uint8) if image is None else image
        alpha = 1.0 if image is None else 0.6
        return draw_panoptic(background, category_of[places], instance_of[places], self.table, alpha=alpha)


def picture_of_record(record: bytes) -> np.ndarray | None:
    """Decodes the picture of a serialised tf.train.Example to uint8 [H, W, 3]; None if it has none."""
    content = schema.decode_example(record).get(schema.IMAGE_ENCODED)
    if not content:
        return None
    try:
        return decode_picture(content[0])
    except ValueError:
        return None


def picture_of_file(content: bytes, shape: tuple[int, int]) -> np.ndarray | None:
    """Decodes a picture file to the pixels of its maps, uint8 [H, W, 3]; None if it cannot be decoded or does not fit.

    Args:
        content: the file's bytes.
        shape: (H, W) of the maps.
    """
    try:
        return decode_annotated(content, shape)
    except ValueError:
        return None


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((_WIDEST, _WIDEST))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return stream.getvalue()
