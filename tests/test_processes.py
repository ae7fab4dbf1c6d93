"""The process pool: outcomes, progress and errors, also if a process dies."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest

from panoptic_cli.errors import DataError, RunError
from panoptic_cli.processes import _Pool, run_units


def test_workers_that_die_before_their_first_unit_are_reported() -> None:
    with _Pool[int, int](operator.add, 2) as pool:
        for process in pool._processes.values():
            process.kill()
            process.join()
        with pytest.raises(RunError, match=r"A worker process died \(exit code -9\)"):
            list(pool.run(iter([1, 2, 3]), lambda n: None))


def _double(unit: int, advance: Callable[[int], None]) -> int:
    if unit < 0:
        raise DataError(f"{unit} is less than nothing.", "Give more.")
    advance(unit)
    return 2 * unit


@pytest.mark.parametrize("workers", [1, 2])
def test_outcomes_progress_and_errors_reach_the_caller(workers: int) -> None:
    reported: list[int] = []
    assert sorted(run_units(_double, range(5), workers, reported.append)) == [0, 2, 4, 6, 8]
    assert sorted(reported) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="-1 is less than nothing") as caught:
        list(run_units(_double, [1, -1], workers, reported.append))
    assert caught.value.hint == "Give more."


def test_a_full_disk_is_named() -> None:
    def no_space(unit: int, advance: object) -> None:
        raise OSError(28, "No space left on device", "/data/shard")

    with pytest.raises(RunError, match="/data/shard: No space left on device"):
        list(run_units(no_space, [1], 1, lambda n: None))
