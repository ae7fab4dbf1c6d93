"""`panoptic upload`: records to a Cloud Storage bucket."""

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
    from panoptic_cli.transfer.upload_plan import Destination, Upload

_MAX_WORKERS = 64


def upload(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[SOURCE] gs://BUCKET/PREFIX",
            help="What to send (a folder or a file; by default <data-dir>/tfrecords), and where to.",
        ),
    ],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=_MAX_WORKERS, metavar="N", help="Files sent at once.")
    ] = 8,
    hidden: Annotated[bool, typer.Option("--include-hidden", help="Send hidden files and folders too.")] = False,
    links: Annotated[bool, typer.Option("--follow-links", help="Send what symbolic links lead to.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Send records to Cloud Storage, in parallel and verified.

    Objects that are already there with the same content are left alone; nothing is ever deleted. Hidden files and
    symbolic links are left out unless asked for. Credentials are Google's Application Default Credentials.

    Examples:
        panoptic upload gs://BUCKET/coco --dry-run
        panoptic upload runs/panoptic_fpn_coco gs://BUCKET/runs/coco
    """
    from panoptic_cli.transfer.upload import UploadError, make_client, run_uploads
    from panoptic_cli.transfer.upload_plan import list_files, plan_uploads

    source, destination = _source_and_destination(places, data_dir)
    paths = list_files(source, hidden=hidden, links=links)
    client = make_client()
    planned = plan_uploads(client, paths, source if source.is_dir() else source.parent, destination)
    if not dry_run:
        try:
            run_uploads(client, planned, destination, workers)
        except UploadError as error:
            if not console.json_output():  # its one object is the error
                console.result({}, _table(planned, {failure.item.name for failure in error.failures}))
            raise
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
    table = _table(planned, None if dry_run else set())
    console.result(data, table, f"{destination}: {len(sent)} files ({size}) {verb}, {same} unchanged.")


def _source_and_destination(places: list[str], data_dir: Path) -> tuple[Path, Destination]:
    from panoptic_cli.transfer.upload_plan import parse_destination

    if len(places) > 2:
        raise UsageError("upload takes one source and one destination.", "panoptic upload [SOURCE] gs://BUCKET/PREFIX")
    destination = parse_destination(places[-1])
    return (Path(places[0]) if len(places) == 2 else data_dir / "tfrecords"), destination


_DONE = {"upload": "sent", "replace": "replaced", "unchanged": "unchanged"}


def _table(planned: list[Upload], failed: set[str] | None = None) -> Table:
    """The files and what happened to them; `failed` None when nothing was sent yet."""
    rows = []
    for item in planned:
        state: str = item.action if failed is None else "FAILED" if item.name in failed else _DONE[item.action]
        rows.append([item.name, state, human_size(item.size), item.crc32c])
    return console.table(None, ["object", "action" if failed is None else "state", "size", "CRC32C"], rows, left=2)
