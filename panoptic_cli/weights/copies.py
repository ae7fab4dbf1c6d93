"""What the caches hold of the published checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from panoptic_cli.weights import cache, hub
from panoptic_cli.weights.published import Published, published_checkpoints
from panoptic_cli.weights.sources import source_of


@dataclass(frozen=True)
class Copy:
    """The copy of a published checkpoint.

    Attributes:
        place: its folder or prefix; None if there is no whole copy.
        expected_place: the folder in which a copy is looked for.
        bytes: the bytes that lie there.
    """

    place: str | None
    expected_place: str
    bytes: int


def describe_copy(published: Published) -> Copy:
    """Returns what the caches hold of a checkpoint. Uses no network."""
    source = source_of(published)
    place = source.cached()
    if source.repository is not None:
        return Copy(place, str(hub.hub_cache_folder()), hub.cached_bytes(source.repository))
    return Copy(place, str(cache.place_of(published)), cache.cached_bytes(published))


def describe_caches() -> dict[str, Any]:
    """Returns the folders of both caches with their sizes: of Hugging Face's, what published checkpoints take."""
    repositories = [source_of(published).repository for published in published_checkpoints().values()]
    return {
        "folder": str(cache.cache_folder()),
        "bytes": cache.cache_bytes(),
        "hugging_face_folder": str(hub.hub_cache_folder()),
        "hugging_face_bytes": sum(hub.cached_bytes(repository) for repository in repositories if repository),
    }
