"""Plans of conversions: which splits become how many shards in which folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from panoptic_cli import console
from panoptic_cli.coco.layout import SPLIT_NAMES, OwnFiles, SplitFiles, find_splits
from panoptic_cli.errors import UsageError
from panoptic_cli.images.orientation import Exif
from panoptic_cli.records.shares import Share

OnBadData = Literal["fail", "skip", "void"]


@dataclass(frozen=True)
class ConversionPlan:
    """What to convert, and to what.

    Attributes:
        files: the split; its name is the prefix of the shards.
        output_dir: folder of the shards.
        shards: number of shards.
        on_bad_data: at a picture that cannot be converted, "fail" or "skip" it and count it; "void" fails, too, but
            keeps pictures without annotation as unlabelled.
        category_map: a YAML file that changes the categories, see `coco.category_map`.
        merge_stuff: make the segments of one stuff category in a picture one segment.
        share: the part of the pictures to convert; None for all.
    """

    files: SplitFiles
    output_dir: Path
    shards: int
    on_bad_data: OnBadData = "fail"
    category_map: Path | None = None
    merge_stuff: bool = False
    share: Share | None = None

    def shard_name(self, index: int) -> str:
        """Returns the file name of a shard: {prefix}-00000-of-00032.tfrecord."""
        return f"{self.files.name}-{index:05d}-of-{self.shards:05d}.tfrecord"

    @property
    def manifest_path(self) -> Path:
        """Path of the split's manifest."""
        return self.output_dir / f"{self.files.name}.manifest.json"


def plan_conversions(
    data_dir: Path,
    output_dir: Path,
    shards: Mapping[str, int],
    on_bad_data: OnBadData = "fail",
    *,
    splits: Sequence[str] = (),
    own: OwnFiles | None = None,
    prefix: str | None = None,
    category_map: Path | None = None,
    merge_stuff: bool = False,
    val_share: float | None = None,
    seed: int = 0,
    exif: Exif | None = None,
) -> list[ConversionPlan]:
    """Plans the conversion of a data set.

    Args:
        data_dir: a data set in COCO's layout.
        output_dir: folder of the records.
        shards: number of shards by split; a split of another name gets as many as "train".
        on_bad_data: see `ConversionPlan`.
        splits: the splits to convert; by default all that exist.
        own: files in another layout; they replace `data_dir`.
        prefix: name of the split in `own`; by default "train".
        category_map: see `ConversionPlan`.
        merge_stuff: see `ConversionPlan`.
        val_share: divide the pictures of one split among "train" and "val"; this share of them becomes "val".
        seed: seed of this division.
        exif: see `SplitFiles`.

    Raises:
        UsageError: the arguments contradict each other, the prefix cannot begin a file name, or there are several
            splits to divide.
        DataError: files are missing.
    """
    if own is not None and own.given:
        if splits:
            raise UsageError("--split needs COCO's layout; it cannot be combined with --panoptic-annotations.")
        files = [own.split(_check_prefix("train" if prefix is None else prefix))]
        if own.image_dir is None:
            console.info(f"Pictures: {files[0].image_dir}")
    else:
        if prefix is not None:
            raise UsageError("--output-prefix needs --panoptic-annotations; COCO's splits keep their names.")
        files = find_splits(data_dir, splits)
    files = [replace(f, exif=exif) for f in files]
    shares: list[Share | None] = [None] * len(files)
    if val_share is not None:
        if len(files) > 1 or prefix is not None:
            hint = "omit --output-prefix" if prefix is not None else "choose it with --split"
            raise UsageError("--val-share divides one split into train and val.", f"To use it, {hint}.")
        shares = [Share(name, val_share, seed) for name in SPLIT_NAMES]
        files = [replace(files[0], name=name) for name in SPLIT_NAMES]
    return [
        ConversionPlan(
            f, output_dir, shards.get(f.name, shards["train"]), on_bad_data, category_map, merge_stuff, share
        )
        for f, share in zip(files, shares, strict=True)
    ]


def _check_prefix(name: str) -> str:
    if not name or any(c in name for c in "/\\*?[]\0") or name.startswith("."):
        raise UsageError(f"--output-prefix {name!r} cannot begin a file name.", "Use letters, digits, - and _.")
    return name
