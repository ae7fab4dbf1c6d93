"""`panoptic upload`: send records to a Cloud Storage bucket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from panoptic_cli import console
from panoptic_cli.errors import UsageError
from panoptic_cli.transfer.sizes import human_size

from .options import DEFAULT_DATA_DIR, DataDir, DryRun, Json

if TYPE_CHECKING:
    from panoptic_cli.transfer.upload import UploadOutcome
    from panoptic_cli.transfer.upload_plan import Upload

_MAX_WORKERS = 64
_DONE = {"upload": "sent", "replace": "replaced", "unchanged": "unchanged"}


def upload(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[SOURCE] gs://BUCKET/PREFIX",
            help="Folder or file to send (default: <data-dir>/tfrecords), and its destination.",
        ),
    ],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=_MAX_WORKERS, metavar="N", help="Number of files sent at the same time."),
    ] = 8,
    hidden: Annotated[bool, typer.Option("--include-hidden", help="Also send hidden files and folders.")] = False,
    links: Annotated[bool, typer.Option("--follow-links", help="Follow symbolic links.")] = False,
    user_project: Annotated[
        str | None,
        typer.Option("--user-project", metavar="ID", help="Project that pays, for a requester-pays bucket."),
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Send records to Cloud Storage in parallel and verify them.

    Skips objects that already have the same content, and never deletes any. Skips hidden files and symbolic links by
    default. Uses Google's Application Default Credentials.

    Examples:
        panoptic upload gs://BUCKET/coco --dry-run
        panoptic upload runs/panoptic_fpn_coco gs://BUCKET/runs/coco
    """
    from panoptic_cli.config.data import RECORDS_FOLDER
    from panoptic_cli.transfer.upload import UploadError, upload_files
    from panoptic_cli.transfer.upload_plan import parse_destination

    if len(places) > 2:
        raise UsageError("upload takes one source and one destination.", "panoptic upload [SOURCE] gs://BUCKET/PREFIX")
    destination = parse_destination(places[-1])
    source = Path(places[0]) if len(places) == 2 else data_dir / RECORDS_FOLDER
    try:
        outcome = upload_files(
            source,
            destination,
            hidden=hidden,
            links=links,
            workers=workers,
            user_project=user_project,
            dry_run=dry_run,
        )
    except UploadError as error:
        if not console.json_output():  # its only object is the error
            console.result({}, _table(error.files, {failure.item.name for failure in error.failures}))
        raise
    console.result(outcome.to_json(), _table(outcome.files, None if dry_run else set()), _summary(outcome))


def _summary(outcome: UploadOutcome) -> str:
    count, unchanged = len(outcome.changed), len(outcome.files) - len(outcome.changed)
    size = human_size(sum(item.size for item in outcome.changed))
    verb = "would be sent" if outcome.dry_run else "sent and verified"
    return f"{outcome.destination}: {count} {'file' if count == 1 else 'files'} ({size}) {verb}, {unchanged} unchanged."


def _table(files: list[Upload], failed: set[str] | None) -> Table:
    """Builds the table of files.

    Args:
        files: all files.
        failed: names of the objects that did not arrive; None if nothing was sent.
    """
    rows = []
    for item in files:
        state: str = item.action if failed is None else "FAILED" if item.name in failed else _DONE[item.action]
        rows.append([item.name, state, human_size(item.size), item.crc32c])
    return console.table(None, ["object", "action" if failed is None else "state", "size", "CRC32C"], rows, left=2)
