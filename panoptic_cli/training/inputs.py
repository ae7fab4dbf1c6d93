"""What a training reads, checked before TensorFlow is imported: records, categories, initial weights."""

from __future__ import annotations

import glob
import http.client
import os
import urllib.error
import urllib.request
from typing import Any

from panoptic_cli import storage
from panoptic_cli.errors import DataError, RunError
from panoptic_cli.records.schema import is_shard
from panoptic_cli.startup import import_tensorflow

_REACH_SECONDS = 10.0
INIT_HINT = "Give a local copy with --init-checkpoint PATH, or start from random weights: --init-checkpoint none."


def check_records(pattern: str, option: str = "--train-data") -> int:
    """Checks that every part of a record pattern matches a file.

    Args:
        pattern: glob patterns with commas between them.
        option: the option that sets it, for messages.

    Returns:
        The number of files; remote patterns are listed through TensorFlow.

    Raises:
        DataError: the pattern is empty or a part of it matches nothing.
    """
    what = "training" if option == "--train-data" else "validation"
    hint = f"Run panoptic make-tfrecords first, or give {option} with the right pattern."
    parts = [part.strip() for part in pattern.split(",") if part.strip()]
    if not parts:
        raise DataError(f"No {what} records are given.", hint)
    if any(storage.is_remote(part) for part in parts):
        import_tensorflow()
        from panoptic_cli.pipeline.stream import record_files

        return len(record_files(pattern))
    counts = [sum(os.path.isfile(path) and is_shard(path) for path in glob.glob(part)) for part in parts]
    for part, count in zip(parts, counts, strict=True):
        if count == 0:
            raise DataError(f"No {what} records match {part}.", hint)
    return sum(counts)


def record_listing(pattern: str) -> list[list[Any]]:
    """Returns [name, bytes] of each record file of a pattern, in the order in which training reads them.

    Whatever the folder is called or where it is mounted, the same names and sizes are taken for the same records.
    """
    paths: set[str] = set()
    for part in (part.strip() for part in pattern.split(",")):
        paths.update(path for path in storage.find(part) if is_shard(path))
    return [[os.path.basename(path), storage.size(path)] for path in sorted(paths)]


def count_pictures(pattern: str) -> int:
    """Counts the records of a pattern, for the length of an epoch.

    Raises:
        DataError: no file matches, or a file is damaged.
    """
    check_records(pattern)
    import_tensorflow()
    from panoptic_cli.pipeline.stream import count_records, record_files

    return sum(count_records(record_files(pattern)))


def check_annotation_file(path: str) -> None:
    """Checks that a COCO instances JSON is there.

    Raises:
        DataError: there is no such file.
    """
    if not os.path.isfile(path):
        raise DataError(
            f"The object annotations {path} do not exist.",
            "Give --annotation-file the instances JSON of the validation pictures, or leave it out.",
        )


def check_init_checkpoint(checkpoint: str, timeout: float = _REACH_SECONDS) -> None:
    """Checks that initial weights can be there: the bucket answers, or the local path exists.

    TensorFlow's own access to a bucket without a network tries again for minutes before it fails.

    Args:
        checkpoint: a prefix, file or folder, local or gs://.
        timeout: seconds to wait for the bucket.

    Raises:
        RunError: it is not there or cannot be reached.
    """
    if not storage.is_remote(checkpoint):
        if not (os.path.exists(checkpoint) or glob.glob(glob.escape(checkpoint) + ".*")):
            raise RunError(f"The initial weights {checkpoint} do not exist.", INIT_HINT)
        return
    scheme, _, rest = checkpoint.partition("://")
    if scheme != "gs":
        return
    bucket = rest.partition("/")[0]
    request = urllib.request.Request(f"https://storage.googleapis.com/{bucket}", method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=timeout).close()
    except urllib.error.HTTPError:
        return  # it answered; whether we may read the object is for its reader to find out
    except (OSError, http.client.HTTPException) as error:  # the latter for what can be no bucket's name, too
        reason = getattr(error, "reason", error)
        raise RunError(f"The initial weights {checkpoint} cannot be reached: {reason}.", INIT_HINT) from None
