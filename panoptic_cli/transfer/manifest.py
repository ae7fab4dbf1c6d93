"""The manifest of a download: archives, their sizes and checksums, and what each one extracts to.

The manifest of COCO 2017 comes with the package. `--manifest FILE` reads another one, for example of a mirror with
fewer pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from panoptic_cli.errors import ConfigError, listed, summarize
from panoptic_cli.files import read_json

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


def _relative(value: str) -> str:
    parts = PurePosixPath(value).parts
    if not parts or "\\" in value or ":" in parts[0] or value.startswith("/") or ".." in parts or parts == (".",):
        raise ValueError("must be a relative path with forward slashes that stays inside its folder")
    return value


RelativePath = Annotated[str, AfterValidator(_relative)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Output(_Model):
    """One file or folder that an archive extracts to.

    Attributes:
        members: what to extract: one member of the archive, or everything below a folder (ends with "/").
        to: the target in the data folder; ends with "/" if and only if `members` does.
        split: the split that needs it; None if both do.
        archive: the member that is a zip file and contains `members`; None if the archive itself contains them.
        files: the number of files in the complete folder; None if unknown.
    """

    members: RelativePath
    to: RelativePath
    split: Split | None = None
    archive: RelativePath | None = None
    files: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _same_kind(self) -> Output:
        if self.is_folder != self.to.endswith("/"):
            raise ValueError(f"members and to must both end with '/' (folders), or neither: {self.members}, {self.to}")
        return self

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder, not a file."""
        return self.members.endswith("/")


class Archive(_Model):
    """One zip file to fetch.

    Attributes:
        path: its URL relative to the base URL.
        size: bytes; None if unknown.
        sha256: hexadecimal SHA-256; None if unknown (then only the zip file's own CRCs are checked).
        unpack_ratio: estimated extracted bytes per archive byte, for the disk check before the download.
        outputs: what it extracts to.
    """

    path: RelativePath
    size: int | None = Field(default=None, ge=1)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    unpack_ratio: float = Field(default=2.0, ge=0)
    outputs: tuple[Output, ...] = Field(min_length=1)

    @property
    def filename(self) -> str:
        """The archive's file name."""
        return PurePosixPath(self.path).name

    def outputs_for(self, splits: Sequence[str]) -> tuple[Output, ...]:
        """Returns the outputs that these splits need."""
        return tuple(output for output in self.outputs if output.split is None or output.split in splits)


class Manifest(_Model):
    """A data set as a list of archives.

    Attributes:
        name: the data set's name.
        base_url: the URL that the archives' paths are relative to; not needed with --base-url.
        archives: the archives, in the order of download.
        source: where the sizes and checksums come from.
    """

    name: str
    base_url: str | None = None
    archives: tuple[Archive, ...] = Field(min_length=1)
    source: str | None = None

    @model_validator(mode="after")
    def _no_clash(self) -> Manifest:
        for what, names in (
            ("archives have the file name", [archive.filename for archive in self.archives]),
            ("outputs go to", [output.to for archive in self.archives for output in archive.outputs]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"several {what} {listed(twice)}")
        return self


def official_manifest() -> Manifest:
    """Returns the manifest of COCO 2017 with panoptic annotations."""
    text = (resources.files("panoptic_cli.transfer") / "manifests" / "coco2017.json").read_text(encoding="utf-8")
    return Manifest.model_validate(json.loads(text))


def load_manifest(path: Path | None) -> Manifest:
    """Reads a manifest.

    Args:
        path: the JSON file; None for the official manifest of COCO 2017.

    Raises:
        DataError: the file is missing or not JSON.
        ConfigError: it is not a manifest; the message lists every problem.
    """
    if path is None:
        return official_manifest()
    try:
        return Manifest.model_validate(read_json(path, "manifest"))
    except ValidationError as error:
        problems = [_describe(item) for item in error.errors()]
        raise ConfigError(
            f"The manifest {path} is not valid: {summarize(problems)}",
            "It needs name and archives, and each archive path and outputs (members, to).",
        ) from None


def _describe(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message
