"""A local mirror with range support. It serves small archives like COCO's and fails on request."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from loopback_server import QuietHandler, running

TRAIN_FILES, VAL_FILES = 5, 3


@dataclass
class Mirror:
    """A web server on loopback.

    Attributes:
        root: the folder it serves.
        url: its base URL.
        sent: (path, first byte, bytes sent) of every answer with a body.
        status: path -> status to answer with instead of the content.
        busy: path -> number of 503 answers before the content.
        cut: path -> number of connections that are closed in the middle of the content.
        ranges: whether range requests are supported.
        bytes_per_second: limit for each connection, None for no limit.
    """

    root: Path
    url: str = ""
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    bytes_per_second: int | None = None

    def bytes_sent(self, path: str) -> int:
        return sum(count for name, _, count in self.sent if name == path)


def _handler(mirror: Mirror) -> type[QuietHandler]:
    lock = threading.Lock()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            file = mirror.root / name
            if name in mirror.status or not file.is_file():
                self.send_error(mirror.status.get(name, 404))
                return
            if self._next(mirror.busy, name):
                self.send_error(503)
                return
            content = file.read_bytes()
            start, end = 0, len(content) - 1
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            asked = asked if mirror.ranges else None
            if asked:
                start, end = int(asked[1]), int(asked[2]) if asked[2] else end
            self.send_response(206 if asked else 200)
            if mirror.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end + 1 - start))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            self.end_headers()
            step, count = 64 << 10, 0
            if self._next(mirror.cut, name):
                end = start + (end - start) // 2
                self.close_connection = True
            try:
                for position in range(start, end + 1, step):
                    piece = content[position : min(position + step, end + 1)]
                    self.wfile.write(piece)
                    count += len(piece)
                    if mirror.bytes_per_second:
                        time.sleep(len(piece) / mirror.bytes_per_second)
            except OSError:
                pass  # the client closed the connection; bytes already sent count
            finally:
                mirror.sent.append((name, start, count))

        def _next(self, faults: dict[str, int], name: str) -> bool:
            with lock:
                faults[name] = faults.get(name, 0) - 1
                return faults[name] >= 0

    return Handler


@contextlib.contextmanager
def serve(root: Path) -> Iterator[Mirror]:
    mirror = Mirror(root)
    with running(_handler(mirror)) as address:
        mirror.url = f"{address}/"
        yield mirror


def make_zip(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zip_bytes(members))


def zip_bytes(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return stream.getvalue()


def coco_members() -> dict[str, dict[str, bytes]]:
    """Returns small versions of COCO's four archives: path of the archive -> member -> bytes."""
    rng = np.random.default_rng(7)
    counts = {"train": TRAIN_FILES, "val": VAL_FILES}

    def pictures(folder: str, count: int, suffix: str) -> dict[str, bytes]:
        names = [f"{folder}/", *(f"{folder}/{number:012d}.{suffix}" for number in range(count))]
        return {name: b"" if name.endswith("/") else rng.bytes(3000 + len(name)) for name in names}

    archives = {f"zips/{split}2017.zip": pictures(f"{split}2017", n, "jpg") for split, n in counts.items()}
    archives["annotations/annotations_trainval2017.zip"] = {
        f"annotations/{kind}_{split}2017.json": json.dumps({"kind": kind, "split": split}).encode()
        for kind in ("instances", "captions")
        for split in counts
    }
    panoptic: dict[str, bytes] = {}
    for split, count in counts.items():
        panoptic[f"annotations/panoptic_{split}2017.json"] = json.dumps({"panoptic": split}).encode()
        nested = pictures(f"panoptic_{split}2017", count, "png")
        litter = {f"__MACOSX/panoptic_{split}2017/._1.png": b"x", f"panoptic_{split}2017/.DS_Store": b"x"}
        panoptic[f"annotations/panoptic_{split}2017.zip"] = zip_bytes(nested | litter)
    archives["annotations/panoptic_annotations_trainval2017.zip"] = panoptic
    return archives


def manifest_for(root: Path) -> dict[str, Any]:
    """Returns the official manifest with the sizes and checksums of the small archives in `root`."""
    from panoptic_cli.transfer.manifest import official_manifest

    value = official_manifest().model_dump(mode="json")
    for archive in value["archives"]:
        content = (root / archive["path"]).read_bytes()
        archive["size"], archive["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        for output in archive["outputs"]:
            if output["files"]:
                output["files"] = TRAIN_FILES if output["split"] == "train" else VAL_FILES
    value["base_url"] = "http://127.0.0.1:9/"  # nothing listens there: --base-url must be used
    return value


def big_val_archive(mirror: Mirror, size: int) -> int:
    """Replaces val2017.zip by three random files of `size` bytes in all; returns the archive's size."""
    path = mirror.root / "zips/val2017.zip"
    with zipfile.ZipFile(path, "w") as archive:  # without compression, as large as its content
        for number in range(3):
            archive.writestr(f"val2017/{number}.jpg", np.random.default_rng(number).bytes(size // 3))
    content = path.read_bytes()
    manifest = json.loads((mirror.root / "manifest.json").read_text())
    manifest["archives"][1].update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    (mirror.root / "manifest.json").write_text(json.dumps(manifest))
    return len(content)
