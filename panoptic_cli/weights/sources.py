"""What --checkpoint and --init-checkpoint name, and the place of the files: a local path, or a prefix in a bucket.

panoptic_fpn_r50_3x          a published checkpoint (see published.py), fetched into a cache
hf://OWNER/REPO[@REVISION]   a repository of Hugging Face, fetched into its library's cache
gs://BUCKET/PREFIX           read where it is, unless it is the source of a published checkpoint
anything else                a path: a run directory, a folder of checkpoints, a prefix, a folder of Hugging Face
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from panoptic_cli import console, storage
from panoptic_cli.errors import UsageError
from panoptic_cli.weights import published as table
from panoptic_cli.weights.published import Published
from panoptic_cli.weights.repository import SCHEME, Repository, parse_repository

Option = Literal["--checkpoint", "--init-checkpoint"]


@dataclass(frozen=True)
class Source:
    """What was named.

    Attributes:
        text: as it was given.
        published: the published checkpoint, None for others.
        repository: the repository of Hugging Face, None for others.
    """

    text: str
    published: Published | None = None
    repository: Repository | None = None

    @property
    def is_fetched(self) -> bool:
        """Whether the files come into a cache; others are used where they are."""
        return self.published is not None or self.repository is not None

    def exists(self) -> bool:
        """Whether the files are there, as far as this machine knows: False only for a local path without any."""
        return self.is_fetched or storage.is_remote(self.text) or _is_here(self.text)

    def cached(self) -> str | None:
        """Returns the place of the files if they are at hand, None if they have to be fetched."""
        if self.repository is not None:
            from panoptic_cli.weights import hub

            return hub.cached_folder(self.repository)
        if self.published is not None:
            from panoptic_cli.weights import cache

            return cache.cached_prefix(self.published)
        return self.text

    def fetch(self) -> str:
        """Returns the place of the files: a local folder or prefix, or a prefix in a bucket. Fetches them if needed.

        Raises:
            TransferError: they cannot be fetched.
        """
        if self.repository is not None:
            from panoptic_cli.weights import hub

            return hub.fetch_repository(self.repository, prefer_cache=self.published is not None)
        if self.published is not None:
            from panoptic_cli.weights import cache

            return cache.fetch_published(self.published)
        return self.text

    def description(self) -> str:
        """Returns the place of the files that describe the network; of a repository, only those are fetched.

        Raises:
            TransferError: they cannot be fetched.
        """
        if self.repository is not None and self.published is None:
            from panoptic_cli.weights import hub

            return hub.fetch_repository(self.repository, description_only=True)
        return self.text


def source_of(published: Published) -> Source:
    """Returns the source of a published checkpoint."""
    repository = parse_repository(published.source) if published.source.startswith(SCHEME) else None
    return Source(published.name, published, repository)


def find_source(text: str, *, option: Option = "--checkpoint", tell: Callable[[str], None] = console.info) -> Source:
    """Finds out what a text names; fetches nothing. Says in one line what is assumed.

    Args:
        text: a name, an address or a path.
        option: the option that it was given with.
        tell: called with what is assumed.

    Raises:
        UsageError: it is neither a name, nor an address, nor an existing path, or only a backbone where a whole network
            is needed.
    """
    address = storage.normalize(text)
    source = _of_address(address, tell) if storage.is_remote(address) else _of_word(text, tell)
    if source.published is not None and source.published.is_backbone and option == "--checkpoint":
        raise UsageError(
            f"{text} is a backbone without heads, which only initialises a training.",
            f"Use it with panoptic train --init-checkpoint {source.published.name}.",
        )
    return source


def _of_address(address: str, tell: Callable[[str], None]) -> Source:
    repository = parse_repository(address) if address.startswith(SCHEME) else None
    published = table.published_at(address)
    if published is not None:
        tell(f"{address} is the published checkpoint {published.name}.")
    return Source(address, published, repository)


def _is_here(path: str) -> bool:
    """Whether there is a file, a folder or a checkpoint's prefix."""
    return os.path.exists(path) or bool(glob.glob(glob.escape(path) + ".*"))


def _of_word(text: str, tell: Callable[[str], None]) -> Source:
    """Returns the source of a text without a scheme. "NAME" is a published name, "./NAME" and "NAME/" are paths."""
    is_path = os.path.basename(text) != text or text in (".", "..")
    text = storage.normalize(text)
    exists = _is_here(text)
    if is_path:
        published = table.published_at(f"{SCHEME}{text}")
        if exists or published is None:
            return Source(text)  # which need not exist
        tell(f"{text} is no path here; it is the published checkpoint {published.name}.")
        return source_of(published)
    known = table.published_checkpoints().get(text)
    if known is not None:
        if exists:
            tell(f"{text} is the published checkpoint; the file or folder of this name here is ./{text}.")
        return source_of(known)
    if not exists:
        close = difflib.get_close_matches(text, table.published_checkpoints(), n=1)
        hint = f"Did you mean {close[0]}?" if close else "panoptic models lists the published ones."
        raise UsageError(f"There is no checkpoint '{text}': neither a file or folder here nor a published name.", hint)
    return Source(text)
