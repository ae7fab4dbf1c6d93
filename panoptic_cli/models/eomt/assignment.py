"""The assignment of rows to columns with the smallest total cost, in TensorFlow operations of static shapes.

The algorithm is the one of shortest augmenting paths (Crouse, On implementing 2D rectangular assignment algorithms,
2016), exact like SciPy's `linear_sum_assignment`. It runs many problems in step, compiles under XLA, and
runs on a TPU, where SciPy cannot be called.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class _Duals(NamedTuple):
    """The state between two rows.

    Attributes:
        rows: float [n, r], the potentials of the rows.
        columns: float [n, c], the potentials of the columns.
        row_of: int32 [n, c], the row that has each column; -1: none.
        column_of: int32 [n, r], the column that each row has; -1: none.
    """

    rows: tf.Tensor
    columns: tf.Tensor
    row_of: tf.Tensor
    column_of: tf.Tensor


class _Search(NamedTuple):
    """The state of the search for the shortest path from a row to a free column.

    Attributes:
        row: int32 [n], the row that the path has reached.
        length: float [n], the length of the path to it.
        shortest: float [n, c], the length of the shortest path to each column.
        previous: int32 [n, c], the row before each column on it.
        seen_rows: bool [n, r], the rows that were reached.
        seen_columns: bool [n, c], the columns whose shortest path is known.
        sink: int32 [n], the free column that was found; -1: none yet.
    """

    row: tf.Tensor
    length: tf.Tensor
    shortest: tf.Tensor
    previous: tf.Tensor
    seen_rows: tf.Tensor
    seen_columns: tf.Tensor
    sink: tf.Tensor


def assign(cost: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """Assigns a column to each row so that the total cost is smallest, and no column twice.

    Args:
        cost: float [n, rows, columns] of static shape, n problems of at most as many rows as columns; finite.
        counts: int32 [n], how many of the rows of each problem count.

    Returns:
        int32 [n, rows], the column of each row; -1 for rows that do not count.
    """
    problems, rows, columns = cost.shape.as_list()
    start = _Duals(
        tf.zeros([problems, rows], cost.dtype),
        tf.zeros([problems, columns], cost.dtype),
        tf.fill([problems, columns], -1),
        tf.fill([problems, rows], -1),
    )

    def body(row: tf.Tensor, duals: _Duals) -> tuple[tf.Tensor, _Duals]:
        return row + 1, _add_row(cost, duals, row, row < counts)

    last = tf.reduce_max(counts)
    _, duals = tf.while_loop(lambda row, _: row < last, body, (tf.constant(0), start))
    return tf.stop_gradient(duals.column_of)


def _add_row(cost: tf.Tensor, duals: _Duals, row: tf.Tensor, counts: tf.Tensor) -> _Duals:
    """Gives a column to one more row; where it does not count (bool [n]), nothing changes."""
    problems, rows, columns = cost.shape.as_list()
    infinity = tf.constant(float("inf"), cost.dtype)
    first = tf.fill([problems], row)
    start = _Search(
        first,
        tf.zeros([problems], cost.dtype),
        tf.fill([problems, columns], infinity),
        tf.fill([problems, columns], -1),
        tf.zeros([problems, rows], tf.bool),
        tf.zeros([problems, columns], tf.bool),
        tf.where(counts, -1, 0),
    )

    def step(search: _Search) -> tuple[_Search]:
        open_ = search.sink < 0
        potential = tf.gather(duals.rows, search.row, batch_dims=1)
        through = tf.gather(cost, search.row, batch_dims=1) + (search.length - potential)[:, None] - duals.columns
        shorter = open_[:, None] & ~search.seen_columns & (through < search.shortest)
        shortest = tf.where(shorter, through, search.shortest)
        previous = tf.where(shorter, search.row[:, None], search.previous)
        left = tf.where(search.seen_columns, infinity, shortest)
        nearest = tf.argmin(left, axis=1, output_type=tf.int32)
        length = tf.gather(left, nearest, batch_dims=1)
        owner = tf.gather(duals.row_of, nearest, batch_dims=1)
        return (
            _Search(
                tf.where(open_ & (owner >= 0), owner, search.row),
                tf.where(open_, length, search.length),
                shortest,
                previous,
                search.seen_rows | (open_[:, None] & _is_at(search.row, rows)),
                search.seen_columns | (open_[:, None] & _is_at(nearest, columns)),
                tf.where(open_ & (owner < 0), nearest, search.sink),
            ),
        )

    (search,) = tf.while_loop(lambda search: tf.reduce_any(search.sink < 0), step, (start,))

    # The potentials change so that the path's edges cost nothing, and none costs less than nothing.
    length = search.length[:, None]
    reached = tf.gather(search.shortest, tf.maximum(duals.column_of, 0), batch_dims=1)
    is_first = _is_at(first, rows)
    rise = tf.where(is_first, length, tf.where(search.seen_rows, length - reached, 0.0))
    row_potentials = duals.rows + tf.where(search.seen_rows, rise, 0.0)
    fall = tf.where(search.seen_columns, length - search.shortest, 0.0)
    changed = duals._replace(rows=row_potentials, columns=duals.columns - fall)
    return _augment(changed, search, first, counts)


def _augment(duals: _Duals, search: _Search, first: tf.Tensor, counts: tf.Tensor) -> _Duals:
    """Moves every row on the path to the column after it."""
    rows, columns = duals.column_of.shape[1], duals.row_of.shape[1]

    def step(
        column: tf.Tensor, active: tf.Tensor, row_of: tf.Tensor, column_of: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        row = tf.gather(search.previous, column, batch_dims=1)
        before = tf.gather(column_of, tf.maximum(row, 0), batch_dims=1)
        row_of = tf.where(active[:, None] & _is_at(column, columns), row[:, None], row_of)
        column_of = tf.where(active[:, None] & _is_at(row, rows), column[:, None], column_of)
        active &= row != first
        return tf.where(active, before, column), active, row_of, column_of

    _, _, row_of, column_of = tf.while_loop(
        lambda column, active, row_of, column_of: tf.reduce_any(active),
        step,
        (search.sink, counts, duals.row_of, duals.column_of),
    )
    return duals._replace(row_of=row_of, column_of=column_of)


def _is_at(index: tf.Tensor, size: int) -> tf.Tensor:
    """Returns bool [n, size], true at each problem's index."""
    return tf.range(size)[None, :] == index[:, None]
