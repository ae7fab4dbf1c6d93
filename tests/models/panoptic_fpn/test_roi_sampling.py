"""The sampling of proposals for training and their mask targets, compared with loops."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from random_boxes import overlaps, some_boxes

from panoptic_cli.config.panoptic_fpn import ROISampler
from panoptic_cli.models.panoptic_fpn.roi_sampling import SampledROIs, mask_targets, sample_rois


def roi_inputs(empty: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns proposals near the ground truth and elsewhere for two pictures; the second may have no ground truth."""
    rng = np.random.default_rng(6)
    gt = np.stack([some_boxes(1, 6), some_boxes(2, 6)])
    classes = rng.integers(1, 9, (2, 6)).astype(np.int32)
    gt[:, 4:], classes[:, 4:] = -1, -1
    near = np.repeat(gt[:, :4], 15, axis=1) + rng.normal(0, 1.5, (2, 60, 4))
    elsewhere = np.stack([some_boxes(3, 140), some_boxes(4, 140)])
    proposals = np.concatenate([near, elsewhere], axis=1).astype(np.float32).clip(0, 128)
    proposals[:, -5:] = 0  # padding of the proposals
    if empty:
        gt[1], classes[1] = -1, -1
    return proposals, gt.astype(np.float32), classes


def sample(inputs: tuple[np.ndarray, np.ndarray, np.ndarray], count: int, seed: tf.Tensor) -> SampledROIs:
    proposals, gt, classes = map(tf.constant, inputs)
    return sample_rois(proposals, gt, classes, ROISampler(num_sampled_rois=count), seed)


def test_sampled_rois_are_matched_to_the_ground_truth() -> None:
    proposals, gt, classes = roi_inputs()
    rois = sample((proposals, gt, classes), 64, tf.constant([1, 2]))
    candidates = np.concatenate([proposals, gt], axis=1)
    for b in range(2):
        chosen, labels = rois.boxes[b].numpy(), rois.classes[b].numpy()
        foreground = labels > 0
        assert 0 < foreground.sum() <= 16
        assert (np.diff(foreground.astype(int)) <= 0).all()  # foreground first
        iou = overlaps(chosen, gt[b, :4])
        np.testing.assert_array_equal(foreground, iou.max(axis=1) >= 0.5)
        best = np.argmax(iou, axis=1)
        np.testing.assert_array_equal(labels[foreground], classes[b][best][foreground])
        np.testing.assert_array_equal(rois.matched_boxes[b].numpy()[foreground], gt[b][best][foreground])
        assert not rois.matched_boxes[b].numpy()[~foreground].any()
        assert not rois.matched_indices[b].numpy()[~foreground].any()
        # They are drawn without replacement from the candidates.
        names = {tuple(box): 0 for box in candidates[b].tolist()}
        for box in chosen.tolist():
            names[tuple(box)] += 1
        assert all(count <= 1 for box, count in names.items() if box != (0, 0, 0, 0))


def test_roi_sampling_is_uniform_and_depends_only_on_the_seed() -> None:
    proposals, gt, classes = roi_inputs()
    draw = tf.function(lambda seed: sample((proposals, gt, classes), 64, seed).boxes, autograph=False)
    np.testing.assert_array_equal(draw(tf.constant([1, 2])), draw(tf.constant([1, 2])))
    counts: dict[tuple, int] = {}
    draws = 150
    for i in range(draws):
        for box in draw(tf.constant([7, i]))[0, 16:].numpy().tolist():
            counts[tuple(box)] = counts.get(tuple(box), 0) + 1
    # All background boxes are equally likely: the counts are binomial, within five deviations of the mean.
    del counts[(0.0, 0.0, 0.0, 0.0)]  # five candidates with the same box
    foreground = overlaps(proposals[0], gt[0, :4]).max(axis=1) >= 0.5
    share = 48 / np.sum(~foreground)
    numbers = np.array(list(counts.values())) / draws
    assert np.abs(numbers - share).max() < 5 * np.sqrt(share * (1 - share) / draws)


def test_rois_without_ground_truth_are_background() -> None:
    rois = sample(roi_inputs(empty=True), 64, tf.constant([1, 2]))
    assert np.any(rois.classes[0])
    assert not np.any(rois.classes[1])
    assert not np.any(rois.matched_boxes[1])
    assert np.min(rois.boxes[1]) >= 0  # real proposals are drawn before the padding of the ground truth


def test_too_few_candidates_are_all_sampled() -> None:
    rois = sample(roi_inputs(), 512, tf.constant([1, 2]))
    assert rois.boxes.shape == (2, 206, 4)
    assert np.isfinite(rois.boxes).all()


def mask_oracle(roi: np.ndarray, box: np.ndarray, mask: np.ndarray, size: int) -> np.ndarray:
    """Samples the crop, which covers `box` and is zero around it, at the centres of the ROI's cells."""
    crop = mask.shape[0]

    def at(y: int, x: int) -> float:
        return float(mask[y, x]) if 0 <= y < crop and 0 <= x < crop else 0.0

    out = np.zeros((size, size))
    for i, j in np.ndindex(size, size):
        y = (roi[0] + (i + 0.5) / size * (roi[2] - roi[0]) - box[0]) / (box[2] - box[0]) * crop
        x = (roi[1] + (j + 0.5) / size * (roi[3] - roi[1]) - box[1]) / (box[3] - box[1]) * crop
        top, left = int(np.floor(y)), int(np.floor(x))
        wy, wx = y - top, x - left
        out[i, j] = (
            at(top, left) * (1 - wy) * (1 - wx)
            + at(top, left + 1) * (1 - wy) * wx
            + at(top + 1, left) * wy * (1 - wx)
            + at(top + 1, left + 1) * wy * wx
        )
    return out


@pytest.mark.parametrize("as_bytes", [True, False])
def test_mask_targets_equal_those_of_the_loops(as_bytes: bool) -> None:
    rng = np.random.default_rng(0)
    gt = some_boxes(5, 3)
    masks = (rng.random((1, 3, 20, 20)) > 0.4).astype(np.float32)
    matched = np.array([[0, 1, 2, 2, 0]])
    boxes = gt[matched] + np.float32(0.0)
    rois = boxes + rng.normal(0, 3, boxes.shape).astype(np.float32)  # some extend beyond their box
    rois[0, 1] = boxes[0, 1]
    classes = np.array([[3, 1, 2, 5, 0]], np.int32)
    boxes[0, 4] = 0
    sampled = SampledROIs(*map(tf.constant, (rois, classes, boxes, matched.astype(np.int32))))
    given = (masks * 255).astype(np.uint8) if as_bytes else masks
    out_rois, out_classes, targets = mask_targets(sampled, tf.constant(given), 8, 14)
    assert targets.shape == (1, 5, 14, 14)  # not more targets than ROIs
    np.testing.assert_array_equal(out_rois, rois)
    np.testing.assert_array_equal(out_classes, classes)
    for k in range(4):
        expected = mask_oracle(
            rois[0, k].astype(np.float64), boxes[0, k].astype(np.float64), masks[0, matched[0, k]], 14
        )
        # In float32, positions up to 24 cells are exact to 1e-5; masks change by up to 1 between cells.
        np.testing.assert_allclose(targets[0, k], expected, atol=1e-4)
    assert not np.any(targets[0, 4])
    assert mask_targets(sampled, tf.constant(given), 2, 14)[2].shape == (1, 2, 14, 14)
