"""An emulated bucket of the Model Garden."""

from __future__ import annotations

from typing import Any, NamedTuple

from fault_proxy import FaultProxy

from panoptic_cli.weights.published import Published

BUCKET = "tf_model_garden"


class Garden(NamedTuple):
    """An emulated bucket with checkpoints.

    Attributes:
        published: the entry of the table; its source is a folder, as far as one knows.
        files: the content of its files by name.
        client: a client of the emulator, which does not pass the proxy.
        proxy: stands between our client and the emulator.
    """

    published: Published
    files: dict[str, bytes]
    client: Any
    proxy: FaultProxy

    def put(self, name: str, content: bytes) -> None:
        """Puts an object beside the checkpoint's."""
        _, _, path = self.published.source.removeprefix("gs://").partition("/")
        self.client.bucket(BUCKET).blob(f"{path}{name}").upload_from_string(content)

    def contents_asked_for(self) -> list[str]:
        """The Range headers of all requests for content."""
        return [r.headers.get("range", "") for r in self.proxy.seen if r.method == "GET" and "alt=media" in r.path]
