"""Running the network, and fusing and scoring its outputs in other threads at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from panoptic_cli.errors import DeviceError, PanopticError, RunError, listed, one_line
from panoptic_cli.inference.predictor import Predictor
from panoptic_cli.pipeline.preprocessing import Geometry
from panoptic_cli.records import schema
from panoptic_cli.results.prediction import Prediction

_BATCHES_BEHIND = 2  # batches whose outputs may wait for fusion and scoring

Batch = tuple[tf.Tensor, Geometry, tf.Tensor]
Score = Callable[[Prediction, bytes], None]


def score_all(
    predictor: Predictor, batches: Iterable[Batch], share: int, score: Score, threads: int = 1
) -> Iterator[int]:
    """Predicts and scores all pictures.

    The network, fusion and scoring release Python's lock for most of their time. Pictures are scored one at a time in
    their order, so the figures do not depend on the timing. At most _BATCHES_BEHIND batches wait.

    Args:
        predictor: the network.
        batches: of `evaluation_dataset`.
        share: pictures that each replica takes at once.
        score: called with the prediction and the record of each picture.
        threads: how many threads fuse.

    Yields:
        How many more pictures are scored.
    """
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads, "fusion") as fusing, ThreadPoolExecutor(1, "scoring") as scoring:
        try:
            for images, geometry, serialized in batches:
                records = serialized.numpy()
                outputs = _run(predictor, images, geometry, share, records)
                arrays = [np.asarray(part) for part in geometry]
                for place, (output, record) in enumerate(zip(outputs, records, strict=True)):
                    fused = fusing.submit(predictor.finish, output, Geometry(*(part[place] for part in arrays)))
                    waiting.append(scoring.submit(_score, score, fused, record))
                yield from _finished(waiting, _BATCHES_BEHIND * share * predictor.replicas)
            yield from _finished(waiting, 0)
        except BaseException:
            # The picture that is being scored is finished, so that it counts either completely or not at all.
            scoring.shutdown(wait=False, cancel_futures=True)
            fusing.shutdown(wait=False, cancel_futures=True)
            raise


def _finished(waiting: deque[Future[None]], most: int) -> Iterator[int]:
    """Removes finished pictures, and waits until at most `most` are left."""
    while waiting and (waiting[0].done() or len(waiting) > most):
        waiting.popleft().result()
        yield 1


def _score(score: Score, fused: Future[Prediction], record: bytes) -> None:
    try:
        score(fused.result(), record)
    except (PanopticError, OSError):  # a full disk, for example, is not the picture's fault
        raise
    except Exception as error:  # any other: the user needs to know the picture
        raise RunError(
            f"Image {_image_id(record)} cannot be evaluated: {type(error).__name__}: {one_line(error)}.",
            "Check its record with 'panoptic inspect'; PANOPTIC_DEBUG=1 shows the traceback.",
        ) from error


def _run(
    predictor: Predictor, images: tf.Tensor, geometry: Geometry, share: int, records: np.ndarray
) -> list[Mapping[str, np.ndarray]]:
    try:
        return list(predictor.run(images, geometry, share))
    except tf.errors.ResourceExhaustedError as error:
        height, width = images.shape[1:3]
        raise DeviceError(
            f"There is not enough memory for {len(records)} pictures of {height} x {width} at once.",
            "Give a smaller --batch-size, or --precision bfloat16.",
        ) from error
    except tf.errors.OpError as error:
        names = listed([_image_id(record) for record in records])
        raise RunError(
            f"The network failed on image {names}: {one_line(error.message)}.",
            "PANOPTIC_DEBUG=1 shows the traceback.",
        ) from error


def _image_id(record: bytes) -> str:
    """Returns the picture's id; "?" if the record is damaged."""
    try:
        (source_id,) = schema.decode_example(record)[schema.IMAGE_SOURCE_ID]
    except (ValueError, KeyError):
        return "?"
    return bytes(source_id).decode(errors="replace")
