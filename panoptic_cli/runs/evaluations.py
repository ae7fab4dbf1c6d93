"""What evaluations found while a run went on: evaluations.jsonl, and the best checkpoint by PQ.

Training itself writes here, or `panoptic evaluate --watch` from another machine.
"""

from __future__ import annotations

import json
import os
from typing import Any

from panoptic_cli import storage
from panoptic_cli.errors import RunError
from panoptic_cli.runs.run_directory import RunDirectory


class Evaluations:
    """The evaluations of one run.

    Args:
        run: its directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def lines(self) -> list[dict[str, Any]]:
        """Returns what was found, in the order in which it was written; half a line is left out."""
        found = []
        for line in (storage.read_text(self.run.evaluations) or "").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def steps(self) -> set[int]:
        """Returns the steps whose weights were evaluated."""
        return {int(line["step"]) for line in self.lines()}

    def add(self, line: dict[str, Any], prefix: str) -> bool:
        """Writes a line, and keeps the checkpoint where it is the best one.

        Args:
            line: has step, PQ (0..1 or None) and images.
            prefix: the checkpoint that was evaluated; it has to be there still.

        Returns:
            Whether it is the best so far, of the evaluations of as many pictures.
        """
        others = [x["PQ"] for x in self.lines() if x.get("images") == line["images"] and x.get("PQ") is not None]
        best = line["PQ"] is not None and line["PQ"] > max(others, default=-1.0)
        if best:
            keep(prefix, self.run.best)
        storage.append_text(self.run.evaluations, json.dumps({**line, "best": best}) + "\n")
        return best


def keep(prefix: str, folder: str) -> None:
    """Copies a checkpoint to a folder of its own, in place of the one that is there.

    The folder's file `checkpoint` names the complete one at any time, as TensorFlow's does.

    Raises:
        RunError: the checkpoint is gone.
    """
    storage.make_directory(folder)
    source, name = os.path.split(prefix)
    files = [file for file in storage.list_directory(source) if file.startswith(f"{name}.")]
    try:
        if not files:
            raise FileNotFoundError(prefix)
        for file in files:
            storage.copy(f"{source}/{file}", f"{folder}/{file}")
    except FileNotFoundError:  # a training that goes on may remove it in the middle of the copy
        raise RunError(f"The checkpoint {prefix} is gone.", "Give trainer.max_to_keep a larger value.") from None
    storage.write_text(f"{folder}/checkpoint", f'model_checkpoint_path: "{name}"\n')
    for file in storage.list_directory(folder):
        if file not in files and file != "checkpoint":
            storage.remove(f"{folder}/{file}")


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of an evaluation's `to_dict` that are worth a curve; all in 0..1, None where undefined."""
    panoptic = result["panoptic"]
    return {
        "PQ": panoptic["All"]["pq"],
        "SQ": panoptic["All"]["sq"],
        "RQ": panoptic["All"]["rq"],
        "PQ_things": panoptic["Things"]["pq"],
        "PQ_stuff": panoptic["Stuff"]["pq"],
        **{f"{kind}_{name}": result[kind][name] for kind in ("box", "mask") for name in ("AP", "AP50", "AP75")},
        "mIoU": result["semantic"]["mIoU"],
        "images": result["images"],
    }
