"""Repositories of Hugging Face: hf://OWNER/REPO[@REVISION]. The library huggingface_hub fetches and caches their files.

Its variables have their usual meaning: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from panoptic_cli import console
from panoptic_cli.errors import TransferError
from panoptic_cli.interrupts import terminate_as_interrupt
from panoptic_cli.transfer.progress import byte_progress
from panoptic_cli.transfer.sizes import free_space, human_size
from panoptic_cli.weights.hub_errors import cause_of, explained, is_unreachable
from panoptic_cli.weights.repository import Repository

# A folder in Hugging Face's layout, without the pickles and the pictures that may lie beside it.
_DESCRIPTION = ("config.json", "preprocessor_config.json")
_INDEX = "model.safetensors.index.json"
_WEIGHTS = ("model*.safetensors", _INDEX)
_BYTES_BAR = "Reconstructing"  # how huggingface_hub begins to describe the bar of the bytes that are on the disk
_BLOCK = 1 << 20


def hub_cache_folder() -> Path:
    """Returns the folder in which huggingface_hub keeps repositories."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_folder(repository: Repository, *, description_only: bool = False) -> str | None:
    """Returns the folder of a repository's files in huggingface_hub's cache, None if they are not all there.

    Args:
        repository: the repository.
        description_only: whether config.json is enough.
    """
    if not (hub_cache_folder() / f"models--{repository.name.replace('/', '--')}").is_dir():
        return None
    import huggingface_hub
    from huggingface_hub import errors

    try:
        folder = huggingface_hub.snapshot_download(
            repository.name,
            revision=repository.revision,
            allow_patterns=_patterns(description_only),
            local_files_only=True,
        )
    except errors.LocalEntryNotFoundError:
        return None
    return folder if _is_complete(Path(folder), description_only) else None


def cached_bytes(repository: Repository) -> int:
    """Returns the bytes of a repository's files in huggingface_hub's cache."""
    folder = hub_cache_folder() / f"models--{repository.name.replace('/', '--')}" / "blobs"
    return sum(path.stat().st_size for path in folder.glob("*")) if folder.is_dir() else 0


def fetch_repository(repository: Repository, *, description_only: bool = False, prefer_cache: bool = False) -> str:
    """Returns the folder with a repository's files, fetched as far as huggingface_hub's cache does not have them.

    Args:
        repository: the repository.
        description_only: whether config.json is enough, without the weights.
        prefer_cache: whether a cached copy is used without asking whether there is a newer one.

    Raises:
        TransferError: it does not exist, is private or gated, has no such revision, is not in Hugging Face's layout,
            or cannot be reached while it is not in the cache.
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP.
    """
    if prefer_cache:
        folder = cached_folder(repository, description_only=description_only)
        if folder is not None:
            return folder
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what it retries, and advice about its own options
    try:
        with terminate_as_interrupt():
            folder = _fetch(repository, _patterns(description_only))
    except Exception as raised:
        error = cause_of(raised)
        folder = cached_folder(repository, description_only=description_only) if is_unreachable(error) else None
        if folder is None:
            raise explained(error, repository, hub_cache_folder()) from None
        console.info(f"{repository} cannot be reached: using the copy in {hub_cache_folder()}.")
    if not _is_complete(Path(folder), description_only):
        raise TransferError(
            f"{repository} is not in Hugging Face's layout: it has no config.json or no model.safetensors.",
            "Other files, such as pickles, are not read.",
        )
    return folder


def _patterns(description_only: bool) -> list[str]:
    return [*_DESCRIPTION, *(() if description_only else _WEIGHTS)]


def _is_complete(folder: Path, description_only: bool) -> bool:
    if not (folder / "config.json").is_file():
        return False
    if description_only or (folder / "model.safetensors").is_file():
        return True
    try:
        places = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return all((folder / name).is_file() for name in places)
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return False


def _fetch(repository: Repository, patterns: list[str]) -> str:
    import huggingface_hub

    arguments: dict[str, Any] = {"revision": repository.revision, "allow_patterns": patterns}
    planned = huggingface_hub.snapshot_download(repository.name, **arguments, dry_run=True, tqdm_class=_bar_class(None))
    missing = [file for file in planned if file.will_download]
    total = sum(file.file_size or 0 for file in missing)
    cache = hub_cache_folder()
    if total > free_space(cache):
        raise TransferError(
            f"{repository} has {human_size(total)}, but only {human_size(free_space(cache))} are free in {cache}.",
            "Free some space, or choose another folder with HF_HOME.",
        )
    if total >= _BLOCK:
        console.info(f"Fetching {repository} ({human_size(total)}) into {cache}.")
        with byte_progress(f"Fetching {repository.name}", total) as show:
            folder = huggingface_hub.snapshot_download(repository.name, **arguments, tqdm_class=_bar_class(show))
    else:
        folder = huggingface_hub.snapshot_download(repository.name, **arguments, tqdm_class=_bar_class(None))
    _check_content(repository, Path(folder), [file.filename for file in missing])
    return folder


def _check_content(repository: Repository, folder: Path, names: list[str]) -> None:
    """Compares files that have just arrived with their checksums; huggingface_hub compares only their sizes.

    Raises:
        TransferError: one differs. It is removed from the cache.
    """
    import huggingface_hub

    if not names:
        return
    listed = {f.path: f for f in huggingface_hub.get_cached_repo_tree(repository.name, revision=folder.name)}
    for name in names:
        entry, path = listed[name], folder / name
        large = entry.lfs.sha256 if entry.lfs is not None else None
        if _digest(path, large is not None) != (large or entry.blob_id):
            blob = path.resolve()
            path.unlink()
            blob.unlink(missing_ok=True)
            raise TransferError(
                f"{name} of {repository} does not have the checksum that the Hub says.",
                "Something changes the bytes in transit. Check proxies, then run the same command again.",
            )


def _digest(path: Path, is_large: bool) -> str:
    """Returns the SHA-256 of a large file, and the id that Git gives to a small one."""
    digest = hashlib.sha256() if is_large else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _bar_class(show: Callable[[int], None] | None) -> type:
    """Returns a class for huggingface_hub's bars that draws nothing and passes the bytes on to ours."""
    from tqdm import tqdm

    lock = threading.Lock()  # files arrive in several threads
    done = 0

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options["disable"] = True
            options.pop("name", None)
            self._counts = str(options.get("desc", "")).startswith(_BYTES_BAR) and show is not None
            super().__init__(*arguments, **options)

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            if self._counts and show is not None:
                with lock:
                    done += int(n or 0)
                    show(done)

    return Bar
