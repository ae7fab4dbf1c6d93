from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from panoptic_cli.categories import CategoryTable
from panoptic_cli.records.schema import FeatureValue, decode_example, encode_example, semantic_lookup


def _table(*entries: tuple[int, int]) -> CategoryTable:
    return CategoryTable.from_list([{"id": i, "name": f"c{i}", "isthing": isthing} for i, isthing in entries], "test")


def test_decoding_inverts_encoding() -> None:
    features: dict[str, FeatureValue] = {
        "bytes": b"\x00\xff",
        "many": [b"a", b""],
        "none": [],
        "int": -5,
        "ints": np.array([1 << 40, -1]),
        "no ints": np.zeros(0, np.int64),
        "floats": np.array([0.5, 1e-7], np.float32),
    }
    decoded = decode_example(encode_example(features))
    assert decoded.keys() == features.keys()
    assert decoded["bytes"] == [b"\x00\xff"]
    assert decoded["many"] == [b"a", b""]
    assert decoded["none"] == []
    np.testing.assert_array_equal(decoded["int"], [-5])
    np.testing.assert_array_equal(decoded["ints"], features["ints"])
    assert len(decoded["no ints"]) == 0
    np.testing.assert_array_equal(decoded["floats"], features["floats"])


def test_equal_features_give_equal_bytes_in_any_order() -> None:
    assert encode_example({"b": 1, "a": b"x"}) == encode_example({"a": b"x", "b": 1})


def test_garbage_is_not_an_example() -> None:
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
        decode_example(b"\xff\xff\xff")


def test_text_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match="feature a"):
        encode_example({"a": np.array(["text"])})


def test_coco_ids_keep_the_reference_classes() -> None:
    lookup = semantic_lookup(_table((90, 1), (1, 1), (200, 0), (92, 0)))
    assert [lookup[i] for i in (0, 1, 90, 91, 92, 200)] == [0, 1, 1, 0, 2, 110]


def test_other_ids_are_counted_in_table_order() -> None:
    lookup = semantic_lookup(_table((5, 0), (7, 1), (300, 0), (2, 1)))
    assert [lookup[i] for i in (0, 5, 300, 7, 2, 6)] == [0, 2, 3, 1, 1, 0]


def test_reading_checking_and_writing_data_need_no_tensorflow() -> None:
    modules = (
        "records.conversion",
        "records.files",
        "demo.shapes",
        "images.pictures",
        "inspection.inspection",
    )
    imports = "; ".join(f"import panoptic_cli.{name}" for name in modules)
    code = f"import sys; {imports}; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_tensorflow_reads_and_writes_the_same() -> None:
    import tensorflow as tf

    record = encode_example({"a": b"x", "b": np.array([3, 4]), "c": np.array([0.5], np.float32)})
    parsed = tf.io.parse_single_example(
        record,
        {
            "a": tf.io.FixedLenFeature([], tf.string),
            "b": tf.io.VarLenFeature(tf.int64),
            "c": tf.io.FixedLenFeature([1], tf.float32),
        },
    )
    assert parsed["a"].numpy() == b"x"
    assert tf.sparse.to_dense(parsed["b"]).numpy().tolist() == [3, 4]
    assert parsed["c"].numpy() == [0.5]
    theirs = tf.train.Example.FromString(record).SerializeToString()
    assert decode_example(theirs).keys() == {"a", "b", "c"}
