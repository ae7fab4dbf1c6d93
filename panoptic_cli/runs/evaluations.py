"""Evaluations of a run's checkpoints: evaluations.jsonl, and the best checkpoint by PQ.

They are written by the training itself, or by `panoptic evaluate --watch` on another machine.
"""

from __future__ import annotations

import json
import os
from typing import Any

from panoptic_cli import storage
from panoptic_cli.errors import RunError
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.weights.checkpoint_files import STATE_FILE


class Evaluations:
    """The evaluations of one run.

    Args:
        run: its directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def lines(self) -> list[dict[str, Any]]:
        """Returns the lines of evaluations.jsonl in order, without incomplete and damaged ones."""
        found = []
        for text in (storage.read_text(self.run.evaluations) or "").splitlines():
            try:
                line = json.loads(text)
                int(line["step"])
            except (ValueError, KeyError, TypeError):
                continue
            found.append(line)
        return found

    def steps(self) -> set[int]:
        """Returns the steps whose weights were evaluated."""
        return {int(line["step"]) for line in self.lines()}

    def add(self, line: dict[str, Any], prefix: str) -> bool:
        """Appends a line, and keeps the checkpoint if it is the best.

        Args:
            line: has step, PQ (0..1 or None) and images.
            prefix: the checkpoint that was evaluated.

        Returns:
            Whether it is the best so far, among evaluations of the same number of pictures.

        Raises:
            RunError: the checkpoint no longer exists.
        """
        others = [x["PQ"] for x in self.lines() if x.get("images") == line["images"] and x.get("PQ") is not None]
        best = line["PQ"] is not None and line["PQ"] > max(others, default=-1.0)
        if best:
            keep(prefix, self.run.best)
        storage.append_text(self.run.evaluations, json.dumps({**line, "best": best}) + "\n")
        return best


def keep(prefix: str, folder: str) -> None:
    """Copies a checkpoint to a folder, in place of the checkpoint there.

    The folder's state file always names a complete checkpoint, as TensorFlow's does.

    Raises:
        RunError: the checkpoint no longer exists.
    """
    storage.make_directory(folder)
    source, name = os.path.split(prefix)
    files = [file for file in storage.list_directory(source) if file.startswith(f"{name}.")]
    try:
        if not files:
            raise FileNotFoundError(prefix)
        for file in files:
            storage.copy(f"{source}/{file}", f"{folder}/{file}")
    except FileNotFoundError:  # the training may remove it during the copy
        raise RunError(
            f"The checkpoint {prefix} no longer exists.", "Give trainer.max_to_keep a larger value."
        ) from None
    storage.write_text(f"{folder}/{STATE_FILE}", f'model_checkpoint_path: "{name}"\n')
    for file in storage.list_directory(folder):
        if file not in files and file != STATE_FILE:
            storage.remove(f"{folder}/{file}")


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of an evaluation's `to_dict` that make useful curves: in 0..1, None if undefined."""
    panoptic = result["panoptic"]
    return {
        "PQ": panoptic["All"]["pq"],
        "SQ": panoptic["All"]["sq"],
        "RQ": panoptic["All"]["rq"],
        "PQ_things": panoptic["Things"]["pq"],
        "PQ_stuff": panoptic["Stuff"]["pq"],
        **{f"{kind}_{name}": result[kind][name] for kind in ("box", "mask") for name in ("AP", "AP50", "AP75")},
        "mIoU": result.get("semantic", {}).get("mIoU"),  # not all networks have a semantic head
        "images": result["images"],
    }
