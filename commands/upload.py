"""`panoptic upload`: records to a Cloud Storage bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from panoptic_cli import console
from panoptic_cli.errors import UsageError
from panoptic_cli.transfer.sizes import human_size
from panoptic_cli.transfer.upload import (
    MAX_WORKERS,
    Destination,
    Upload,
    list_files,
    make_client,
    parse_destination,
    plan_uploads,
    run_uploads,
)

from .options import DEFAULT_DATA_DIR, DataDir, DryRun, Json


def upload(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[SOURCE] gs://BUCKET/PREFIX",
            help="What to send (a folder or a file; by default <data-dir>/tfrecords), and where to.",
        ),
    ],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    workers: Annotated[int, typer.Option("--workers", min=1, max=MAX_WORKERS, help="Files sent at once.")] = 8,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Send records to Cloud Storage, in parallel and verified.

    Objects that are already there with the same content are left alone. Hidden files and symbolic links are
    not sent. Credentials are Google's Application Default Credentials.
    """
    source, destination = _source_and_destination(places, data_dir)
    paths = list_files(source)
    client = make_client()
    planned = plan_uploads(client, paths, source if source.is_dir() else source.parent, destination)
    if not dry_run:
        run_uploads(client, planned, destination, workers)
    sent = [item for item in planned if item.action != "unchanged"]
    same = len(planned) - len(sent)
    data = {
        "dry_run": dry_run,
        "destination": str(destination),
        "files": [
            {
                "path": str(item.path),
                "object": item.name,
                "bytes": item.size,
                "crc32c": item.crc32c,
                "action": item.action,
            }
            for item in planned
        ],
        "files_sent": 0 if dry_run else len(sent),
        "bytes_sent": 0 if dry_run else sum(item.size for item in sent),
        "files_unchanged": same,
    }
    verb = "would be sent" if dry_run else "sent and verified"
    size = human_size(sum(item.size for item in sent))
    console.result(data, _table(planned), f"{destination}: {len(sent)} files ({size}) {verb}, {same} unchanged.")


def _source_and_destination(places: list[str], data_dir: Path) -> tuple[Path, Destination]:
    if len(places) > 2:
        raise UsageError("upload takes one source and one destination.", "panoptic upload [SOURCE] gs://BUCKET/PREFIX")
    destination = parse_destination(places[-1])
    return (Path(places[0]) if len(places) == 2 else data_dir / "tfrecords"), destination


def _table(planned: list[Upload]) -> Table:
    rows = [[item.name, item.action, human_size(item.size), item.crc32c] for item in planned]
    return console.table(None, ["object", "action", "size", "CRC32C"], rows, left=2)
