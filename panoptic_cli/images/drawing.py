"""Drawing panoptic maps over their pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from panoptic_cli.categories import CategoryTable
from panoptic_cli.images.fonts import label

_MIN_FONT, _MAX_FONT = 7, 40  # pixels
_UNKNOWN_COLOR = (160, 160, 160)
_GRID = 48  # label positions are searched on masks of about this size
_NEIGHBOURS = ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]))
_STRIP = 1 << 20  # pixels that are blended at once: the floats of a large picture would need gigabytes


@dataclass(frozen=True)
class _Region:
    """One segment to draw."""

    places: np.ndarray  # [h, w], the part of the map of places within its bounding box
    place: int  # its own place
    top: int
    left: int
    area: int
    category_id: int
    instance: int
    color: tuple[int, int, int]


def draw_panoptic(
    image: np.ndarray,
    category_map: np.ndarray,
    instance_map: np.ndarray,
    table: CategoryTable,
    *,
    scores: Mapping[int, float] | None = None,
    alpha: float = 0.5,
    outlines: bool = True,
    labels: bool = True,
) -> Image.Image:
    """Draws a panoptic map over its picture.

    Stuff gets its category's colour, and every instance gets its own shade of it. Instances are outlined on their
    boundary pixels. Labels (name and score) are white on a dark plate, so that they are legible on any background, and
    their size follows the picture's. A label that would cover another label, or is far too large for its segment, is
    omitted. Unlabelled pixels do not change.

    Args:
        image: uint8 [H, W, 3], RGB.
        category_map: int32 [H, W], category ids, 0 for void.
        instance_map: int32 [H, W], instance numbers of the things, 0 for stuff.
        table: names and colours. Unknown ids are drawn grey and labelled with their number, as are names in letters for
            which this system has no font.
        scores: 0..1 by instance number, shown in percent.
        alpha: opacity of the colours, 0..1; 0 draws nothing.
        outlines: whether to outline the instances.
        labels: whether to write labels.

    Returns:
        An RGB picture of the same size; with `alpha` 0 it equals `image`.

    Raises:
        ValueError: shapes do not match, or alpha is out of range.
    """
    height, width = image.shape[:2]
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 [H, W, 3], not {image.dtype} {image.shape}")
    if category_map.shape != (height, width) or instance_map.shape != (height, width):
        raise ValueError(
            f"maps {category_map.shape} and {instance_map.shape} do not fit an image of {height} x {width}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in 0..1, not {alpha}")
    if alpha == 0:
        return Image.fromarray(image)
    places, regions = _regions(category_map, instance_map, table)
    colors = np.array([(0, 0, 0), *(r.color for r in regions)], np.float32)
    opacities = np.array([0.0] + [alpha] * len(regions), np.float32)
    canvas = np.empty_like(image)
    for rows in _strips(height, width):
        opacity = opacities[places[rows]][..., None]
        canvas[rows] = np.rint(image[rows] * (1 - opacity) + colors[places[rows]] * opacity)
    if outlines:
        _outline(canvas, places, regions)
    picture = Image.fromarray(canvas)
    if labels:
        _label(picture, regions, table, scores or {})
    return picture


def instance_color(color: tuple[int, int, int], rank: int) -> tuple[int, int, int]:
    """Returns the shade of a category's colour for its `rank`-th instance in a picture.

    Rank 0 has the colour itself. Lightness and hue of the others move in golden-ratio steps. So neighbouring ranks
    differ clearly, however many there are, and all of them stay near the category's colour.
    """
    if rank == 0:
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    middle = min(max(lightness, 0.3), 0.7)  # room to both sides
    lightness = middle + 0.4 * ((rank * 0.618033988749895 + 0.5) % 1.0 - 0.5)
    hue = (hue + 0.08 * ((rank * 0.754877666246693 + 0.5) % 1.0 - 0.5)) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, max(saturation, 0.25))
    return round(red * 255), round(green * 255), round(blue * 255)


def _regions(
    category_map: np.ndarray, instance_map: np.ndarray, table: CategoryTable
) -> tuple[np.ndarray, list[_Region]]:
    """Returns the 1-based place of each pixel's region, [H, W], 0 for void, and the regions."""
    height, width = category_map.shape
    span = int(instance_map.max(initial=0)) + 1

    def keys_of(rows: slice) -> np.ndarray:
        category = category_map[rows].astype(np.int64)
        return np.where(category > 0, category * span + instance_map[rows], 0)

    found = {0}
    for rows in _strips(height, width):
        keys = keys_of(rows)
        starts = np.flatnonzero(np.diff(keys.reshape(-1), prepend=-1))  # sorting runs, not pixels
        found.update(np.unique(keys.reshape(-1)[starts]).tolist())
    known = np.array(sorted(found), np.int64)
    places = np.empty((height, width), np.uint16 if len(known) < 1 << 16 else np.int32)
    in_rows = np.zeros((len(known), height), bool)
    in_columns = np.zeros((len(known), width), bool)
    areas = np.zeros(len(known), np.int64)
    for rows in _strips(height, width):
        strip = np.searchsorted(known, keys_of(rows))
        places[rows] = strip
        areas += np.bincount(strip.reshape(-1), minlength=len(known))
        in_rows[strip, np.arange(rows.start, rows.stop)[:, None]] = True
        in_columns[strip, np.arange(width)] = True
    ranks: dict[int, int] = {}
    regions = []
    for place, key in enumerate(known[1:].tolist(), start=1):
        category_id, number = divmod(key, span)
        category = table.by_id.get(category_id)
        color = category.color if category else _UNKNOWN_COLOR
        if number:
            rank = ranks.setdefault(category_id, 0)
            ranks[category_id] += 1
            color = instance_color(color, rank)
        y, x = np.flatnonzero(in_rows[place]), np.flatnonzero(in_columns[place])
        box = places[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        regions.append(_Region(box, place, int(y[0]), int(x[0]), int(areas[place]), category_id, number, color))
    return places, regions


def _strips(height: int, width: int) -> Iterator[slice]:
    """Yields the rows of a picture, as many at once as `_STRIP` allows."""
    step = max(1, _STRIP // max(width, 1))
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _outline(canvas: np.ndarray, places: np.ndarray, regions: list[_Region]) -> None:
    """Draws a line along the inner side of every instance's boundary, in a contrasting tone."""
    height, width = places.shape
    thickness = max(1, round(min(height, width) / 400))
    is_thing = np.array([False, *(r.instance > 0 for r in regions)])
    tones = np.array([(0, 0, 0), *(_tone(r.color) for r in regions)], np.uint8)
    for rows in _strips(height, width):
        first = max(rows.start - thickness, 0)
        part = places[first : rows.stop + thickness]
        edge = np.zeros(part.shape, bool)
        for near, far in _NEIGHBOURS:
            differs = part[near] != part[far]
            edge[near] |= differs
            edge[far] |= differs
        for _ in range(thickness - 1):
            thicker = edge.copy()
            for near, far in _NEIGHBOURS:
                thicker[near] |= edge[far]
                thicker[far] |= edge[near]
            edge = thicker
        inside = places[rows]
        drawn = edge[rows.start - first : rows.stop - first] & is_thing[inside]
        canvas[rows][drawn] = tones[inside[drawn]]


def _tone(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns a tone that contrasts with the colour: far lighter, or darker if the colour is light."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    red, green, blue = colorsys.hls_to_rgb(hue, 0.9 if lightness < 0.62 else 0.15, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _label(picture: Image.Image, regions: list[_Region], table: CategoryTable, scores: Mapping[int, float]) -> None:
    size = min(max(round(min(picture.size) * 0.028), _MIN_FONT), _MAX_FONT)
    pad = max(1, size // 5)
    draw = ImageDraw.Draw(picture, "RGBA")
    taken: list[tuple[int, int, int, int]] = []
    # Things before stuff and large before small, so that the most important labels are kept if space is short.
    for region in sorted(regions, key=lambda r: (r.instance == 0, -r.area)):
        text, font = label(table, region.category_id, size)
        if region.instance in scores:
            text += f" {scores[region.instance]:.0%}"
        x0, y0, x1, y1 = font.getbbox(text)
        width, height = round(x1 - x0) + 2 * pad, round(y1 - y0) + 2 * pad
        if width > picture.width or height > picture.height:
            continue
        room = 2 * width * height if region.instance == 0 else width * height / 8
        if region.area < room:
            continue
        for x, y in _spots(region, width, height, picture.size):
            box = (x, y, x + width, y + height)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                draw.rectangle((x, y, x + width - 1, y + height - 1), fill=(0, 0, 0, 170))
                draw.text((x + pad - x0, y + pad - y0), text, fill=(255, 255, 255, 255), font=font)
                break


def _spots(region: _Region, width: int, height: int, picture_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns top-left corners to try for a label, best first: inside the region, then above and below it."""
    row, column = _inside(region.places, region.place)
    x, y = region.left + column - width // 2, region.top + row - height // 2
    spots = [(x, y), (x, y - height), (x, y + height)]
    if region.instance:
        spots += [(region.left, region.top - height), (region.left, region.top + region.places.shape[0])]
    right, bottom = picture_size[0] - width, picture_size[1] - height
    return [(min(max(x, 0), right), min(max(y, 0), bottom)) for x, y in spots]


def _inside(places: np.ndarray, place: int) -> tuple[int, int]:
    """Returns a pixel of a region far from its border, found by erosion on a coarse grid."""
    step = max(1, -(-max(places.shape) // _GRID))
    left = np.pad(places[::step, ::step] == place, 1)
    if not left.any():  # thinner than the grid
        step, left = 1, np.pad(places == place, 1)
    while True:
        core = left[1:-1, 1:-1] & left[:-2, 1:-1] & left[2:, 1:-1] & left[1:-1, :-2] & left[1:-1, 2:]
        if not core.any():
            break
        left = np.pad(core, 1)
    rows, columns = np.nonzero(left[1:-1, 1:-1])
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(rows[nearest]) * step, int(columns[nearest]) * step


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
