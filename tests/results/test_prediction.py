from __future__ import annotations

import numpy as np
from predictions import no_detections

from panoptic_cli.results.prediction import Prediction, Segment


def test_maps_follow_from_the_segments() -> None:
    prediction = Prediction(
        segment_map=np.array([[0, 1, 1], [2, 3, 3]], np.int32),
        segments=[Segment(1, 5, area=2), Segment(2, 5, area=1), Segment(3, 190, area=2)],
        detections=no_detections(),
        detection_of_segment=np.array([4, 2, 0], np.int32),
    )
    np.testing.assert_array_equal(prediction.category_map, [[0, 5, 5], [5, 190, 190]])
    np.testing.assert_array_equal(prediction.instance_map, [[0, 4, 4], [2, 0, 0]])
    assert prediction.category_map.dtype == prediction.instance_map.dtype == np.int32


def test_void_everywhere() -> None:
    void = np.zeros((2, 3), np.int32)
    prediction = Prediction(void, [], no_detections(), np.zeros(0, np.int32))
    np.testing.assert_array_equal(prediction.category_map, void)
    np.testing.assert_array_equal(prediction.instance_map, void)
