"""Units of work on Apache Beam, for conversions that one machine is too small for (extra `panoptic-cli[beam]`).

The same function writes the same shards as on one machine; Beam only hands the units out. Workers read the pictures
and write the shards themselves, so all of them must see the input and output folders under the same paths.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from panoptic_cli.errors import DataError, PanopticError, RunError, UsageError

_NAMES = {cls.__name__: cls for cls in (DataError, RunError, PanopticError)}


def check_beam(runner: str, options: Sequence[str]) -> None:
    """Checks that Beam is installed and knows the runner and the form of the options.

    Raises:
        UsageError: it is not, or an option has no "=".
    """
    try:
        from apache_beam.runners import create_runner
    except ImportError:
        raise UsageError(
            "--runner needs Apache Beam, which is not installed.", "Run: pip install 'panoptic-cli[beam]'"
        ) from None
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"Apache Beam has no runner {runner!r}: {reason}.", "DirectRunner is there always.") from None
    for option in options:
        if "=" not in option:
            raise UsageError(f"--runner-option {option!r} is not of the form name=value.")


def run_units_on_beam(
    runner: str,
    options: Sequence[str],
    scratch_parent: Path,
    work: Callable[[Any, Callable[[int], None]], Any],
    units: Iterable[Any],
    workers: int,
    advance: Callable[[int], None],
) -> Generator[Any]:
    """Runs `work(unit, advance)` for every unit in one pipeline and yields the outcomes; see `workers.run_units`.

    Args:
        runner: name of a Beam runner.
        options: name=value, options of the pipeline.
        scratch_parent: a folder that all workers see; outcomes pass through a hidden folder in it.
        work: a picklable callable whose outcomes JSON can hold.
        units: picklable, with len() of their `pictures`.
        workers: processes of the DirectRunner; other runners have their own options.
        advance: called when the pipeline has ended; Beam tells nothing before.

    Raises:
        PanopticError: the first that `work` raised, when all units have been tried; RunError when the pipeline failed.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = [f"--{option}" for option in options]
    if runner == "DirectRunner" and workers > 1 and not any("direct_running_mode" in flag for flag in flags):
        flags += ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    units = list(units)
    if not units:
        return
    scratch = Path(tempfile.mkdtemp(prefix=".beam-", dir=scratch_parent))
    try:
        try:
            with beam.Pipeline(runner=runner, options=PipelineOptions(flags)) as pipeline:
                outcomes = pipeline | beam.Create(units, reshuffle=True) | beam.Map(partial(_try, work))
                _ = outcomes | beam.io.WriteToText(str(scratch / "outcomes"), num_shards=1)
        except Exception as error:  # each runner has its own exceptions
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise RunError(
                f"The Beam pipeline failed: {reason}.",
                "Whole shards are kept: the same command goes on. PANOPTIC_DEBUG=1 shows all of it.",
            ) from error
        lines = [line for path in scratch.glob("outcomes*") for line in path.read_text().splitlines()]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    failed: PanopticError | None = None
    for line in lines:
        told = json.loads(line)
        if "error" in told:
            failed = failed or _NAMES.get(told["error"], DataError)(told["message"], told["hint"])
            continue
        advance(told["pictures"])
        yield told["outcome"]
    if failed is not None:
        raise failed


def _try(work: Callable[[Any, Callable[[int], None]], Any], unit: Any) -> str:
    """Does one unit; its outcome, or the error a user can understand, as one line of JSON."""
    try:
        outcome = work(unit, lambda n: None)
    except PanopticError as error:
        return json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint})
    return json.dumps({"outcome": outcome, "pictures": len(unit.pictures)})
