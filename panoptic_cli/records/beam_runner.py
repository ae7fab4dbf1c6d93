"""Units of work on Apache Beam, for conversions that are too large for one machine (extra `panoptic-cli[beam]`).

The same function writes the same shards as on one machine; Beam only distributes the units. Workers read the pictures
and write the shards themselves, so they must see the input and output folders under the same paths.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from panoptic_cli.errors import DataError, PanopticError, RunError, UsageError, one_line

_NAMES = {cls.__name__: cls for cls in (DataError, RunError, PanopticError)}


def check_beam(runner: str, options: Sequence[str]) -> None:
    """Checks that Beam is installed and knows the runner, and that the options are well-formed.

    Raises:
        UsageError: Beam is not installed or has no such runner, or an option has no "=".
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
        raise UsageError(
            f"Apache Beam has no runner {runner!r}: {one_line(error, 200)}.", "DirectRunner is always available."
        ) from None
    for option in options:
        if "=" not in option:
            raise UsageError(f"--runner-option {option!r} must have the form name=value.")


def beam_units(runner: str, options: Sequence[str], scratch_parent: Path) -> Callable[..., Generator[Any]]:
    """Returns a function that runs units on Beam as `processes.run_units` runs them in processes.

    Args:
        runner: name of a Beam runner.
        options: options of the pipeline, name=value.
        scratch_parent: a folder that all workers see.

    Raises:
        UsageError: see `check_beam`.
    """
    check_beam(runner, options)
    return partial(run_units_on_beam, runner, options, scratch_parent)


def run_units_on_beam(
    runner: str,
    options: Sequence[str],
    scratch_parent: Path,
    work: Callable[[Any, Callable[[int], None]], Any],
    units: Iterable[Any],
    workers: int,
    advance: Callable[[int], None],
) -> Generator[Any]:
    """Runs `work(unit, advance)` for every unit in one pipeline and yields the outcomes; see `processes.run_units`.

    Args:
        runner: name of a Beam runner.
        options: options of the pipeline, name=value.
        scratch_parent: a folder that all workers see; outcomes pass through a hidden folder in it.
        work: a picklable callable; its outcomes must be JSON values.
        units: picklable units with sized `pictures`.
        workers: number of processes of the DirectRunner; other runners have their own options.
        advance: called after the pipeline has ended; Beam reports nothing before.

    Raises:
        PanopticError: the first error that `work` raised, after all units have been tried.
        RunError: the pipeline failed.
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
            raise RunError(
                f"The Beam pipeline failed: {one_line(error)}.",
                "Complete shards are kept; the same command continues. PANOPTIC_DEBUG=1 shows the whole error.",
            ) from error
        lines = [line for path in scratch.glob("outcomes*") for line in path.read_text().splitlines()]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    failed: PanopticError | None = None
    for line in lines:
        result = json.loads(line)
        if "error" in result:
            failed = failed or _NAMES.get(result["error"], DataError)(result["message"], result["hint"])
            continue
        advance(result["pictures"])
        yield result["outcome"]
    if failed is not None:
        raise failed


def _try(work: Callable[[Any, Callable[[int], None]], Any], unit: Any) -> str:
    """Does one unit and returns its outcome, or the PanopticError, as one line of JSON."""
    try:
        outcome = work(unit, lambda n: None)
    except PanopticError as error:
        return json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint})
    return json.dumps({"outcome": outcome, "pictures": len(unit.pictures)})
